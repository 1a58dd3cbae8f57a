"""Plans: the count is XLA's own, and what does not fit is said not to."""

import json
import pathlib
import subprocess
import sys

import pytest

from byteprob.models import hf
from experiments import _budget

ROOT = pathlib.Path(__file__).parents[2]
LARGE = ROOT / "configs" / "plan" / "llama3_70b.json"


def run(*words: str) -> subprocess.CompletedProcess:
  """Runs the script."""
  return subprocess.run(
    [sys.executable, "-m", "experiments.plan", *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_a_model_of_known_size():
  config = hf.read_hf_config(LARGE)
  # As Meta and the hub have it.
  assert _budget.count(config) == 70_553_706_496
  call = _budget.Call(texts=1, rows=1, slots=1000)
  whole = _budget.budget(config, _budget.mesh_of(1, 1), "bfloat16", call)
  norms = 161 * 8192
  assert whole.params == 2 * 70_553_706_496 + 2 * norms
  # Two of 8 heads of 128 dimensions in 80 layers, two bytes each.
  assert whole.cache == 1000 * (2 * 8 * 128 * 80 * 2 + 4)
  assert whole.sums == 161
  # Two operations for each parameter but the embedding's.
  seen = 70_553_706_496 - 128_256 * 8192 - norms
  attention = 4 * 1000 * 64 * 128 * 80
  assert whole.flops == 2 * seen + attention
  part = _budget.budget(config, _budget.mesh_of(1, 8), "bfloat16", call)
  assert part.params - 4 * norms == (whole.params - 4 * norms) / 8


@pytest.fixture
def small(tmp_path):
  """The large model's config, made small."""
  config = json.loads(LARGE.read_text())
  config |= {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
  }
  path = tmp_path / "small.json"
  path.write_text(json.dumps(config))
  return path


def test_the_count_is_what_is_compiled(small, tmp_path):
  words = [f"--model_config={small}", "--mesh=data:2,model:4", "--slots=256"]
  found = {}
  for layers in ("two", "all"):
    output = tmp_path / f"{layers}.json"
    done = run(*words, f"--layers={layers}", f"--output={output}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("it fits") == 2
    found[layers] = json.loads(output.read_text())["calls"]["drawing"]
  made, extended = (found[k]["compiled"] for k in ("all", "two"))
  # Of one row each a CPU makes nine (`plan.FEWEST_ROWS`).
  inputs = 4 * 9 * (3 * 4 + 256)
  assert made["arguments"] == made["counted_arguments"] + inputs
  assert extended["arguments"] == made["arguments"]
  assert made["flops"] == pytest.approx(made["counted_flops"], rel=0.1)
  assert made["sums"] == extended["sums"] == made["counted_sums"] == 9
  # Of so small a model the logits are the most.
  logits = found["all"]["bytes"]["logits"]
  assert made["temporary"] < made["counted_temporary"] + logits


@pytest.mark.slow
@pytest.mark.parametrize("device", ["v5p", "h100"])
def test_seventy_billion_parameters_on_eight_devices(device, tmp_path):
  output = tmp_path / "plan.json"
  done = run(
    f"--model_config={LARGE}", f"--device={device}", f"--output={output}"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for told in json.loads(output.read_text())["calls"].values():
    made = told["compiled"]
    assert told["fits"]
    assert made["arguments"] == pytest.approx(
      made["counted_arguments"], rel=1e-3
    )
    assert made["flops"] == pytest.approx(made["counted_flops"], rel=0.02)


@pytest.mark.slow
def test_what_does_not_fit_and_what_would():
  done = run(
    f"--model_config={LARGE}",
    "--mesh=model:2",
    "--device=h100",
    "--layers=none",
  )
  assert done.returncode == 0
  assert done.stdout.count("IT DOES NOT FIT") == 2
  assert "what would: --mesh=data:1,model:4 or" in done.stdout
  assert done.stdout.count("--device=h200") == 2
  for other in ("--mesh=model:4", "--device=h200"):
    words = ["--mesh=model:2", "--device=h100", "--layers=none", other]
    done = run(f"--model_config={LARGE}", *words)
    assert done.stdout.count("it fits") == 2
  done = run(f"--model_config={LARGE}", "--mesh=model:3", "--layers=none")
  assert done.returncode == 1
  assert "axis model:3 does not divide the model's 64 attention" in done.stderr
