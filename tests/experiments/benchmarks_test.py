"""Host: the benchmarks run, and what they write means something."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import _operations

ROOT = pathlib.Path(__file__).parents[2]


def run(name, *more):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{name}", *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def test_tables(tmp_path):
  path = ROOT / "byteprob" / "assets" / "stdlib-spm" / "tokenizer.json"
  done = run(
    "tables", f"--tokenizers=small={path}", f"--output={tmp_path / 'o.json'}"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads((tmp_path / "o.json").read_text())
  row = found["tokenizers"]["small"]
  assert row["tokens"] == 2553
  seconds = row["seconds"]
  assert {"read", "compile", "save"} < set(seconds)
  parts = sum(seconds[k] for k in ("read", "compile", "save"))
  assert parts <= seconds["whole"] + 0.01
  # The second process found what the first had written.
  assert 0 < row["load_seconds"] < seconds["whole"]
  assert row["file_bytes"] > 4 * row["tokens"]
  assert row["peak_mib"] > 50
  assert str(ROOT) not in json.dumps(found), "no paths of this machine"
  assert "small" in done.stdout


def test_scoring(tmp_path):
  done = run(
    "scoring",
    "--config.sizes=40,",
    "--config.batches=2,",
    "--config.texts=('code',)",
    "--config.repeats=1",
    f"--output={tmp_path / 'o.json'}",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  [case] = json.loads((tmp_path / "o.json").read_text())["cases"]
  assert case["bytes"] == 80
  assert case["tokens"] < case["bytes"] <= case["nodes"]
  seconds = case["seconds"]
  assert case["ratio"] == pytest.approx(seconds["plain"] / seconds["exact"])
  assert f"{case['ratio']:.3f}" in done.stdout


@pytest.mark.slow
def test_throughput(tmp_path):
  done = run(
    "throughput",
    "--config=configs/throughput.py:tiny",
    f"--output={tmp_path / 'o.json'}",
    f"--figure={tmp_path / 'o.png'}",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads((tmp_path / "o.json").read_text())
  base, two, pruned = found["cases"]
  for case in found["cases"]:
    assert case["bytes"] <= 60
    rates = case["bytes_per_s"] / case["plain_bytes_per_s"]
    assert case["ratio"] == pytest.approx(rates)
    assert case["calls_per_token"] > 0
    assert case["cache_rows"] > 0
    assert f"{case['ratio']:.3f}" in done.stdout
  assert two["case"]["batch"] == 2
  # A call has a row for each text that waits.
  assert base["rows_per_token"] == pytest.approx(base["calls_per_token"])
  assert 0 < two["rows_per_token"] <= two["calls_per_token"]
  assert base["error"] == 0 < pruned["error"]
  assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_latency(tmp_path):
  done = run(
    "latency",
    "--config=configs/latency.py:tiny",
    f"--output={tmp_path / 'o.json'}",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads((tmp_path / "o.json").read_text())
  short, long = found["keystrokes"]["cases"]
  assert (short["context"], long["context"]) == (20, 60)
  for case in (short, long):
    assert case["bytes"] == 3
    assert case["programs"] == 0, "what is timed compiles nothing"
    ratio = case["ms_median"] / case["plain_step_ms"]
    assert case["over_plain_step"] == pytest.approx(ratio)
  growth = long["ms_median"] / short["ms_median"]
  assert found["keystrokes"]["growth"] == pytest.approx(growth)
  for name in ("first_sample", "first_score"):
    assert found[name]["programs"] > 0, "the caches are empty"
    assert 0 < found[name]["cpu_seconds"] < found[name]["process_cpu_seconds"]
  requests = found["requests"]
  assert len(requests["each"]) == requests["requests"] == 5
  programs = [one["programs"] for one in requests["each"]]
  assert sum(programs) == requests["programs"]
  assert {"temperature", "top_p", "greedy", "constraint"} <= {
    name for one in requests["each"] for name in one
  }
  assert str(ROOT) not in json.dumps(found), "no paths of this machine"


@pytest.mark.slow
def test_operations(tmp_path):
  done = run(
    "operations",
    "--config=configs/operations.py:tiny",
    f"--output={tmp_path / 'o.json'}",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  [case] = json.loads((tmp_path / "o.json").read_text())["cases"]
  step, call, whole = (case["parts"][k] for k in ("step", "call", "round"))
  # Each byte takes a step, and so does each wait for the model.
  assert case["bytes"] <= step["steps"] <= case["bytes"] + whole["steps"] + 1
  assert call["steps"] == case["model_calls_per_byte"] * case["bytes"]
  assert whole["steps"] == call["steps"] + 1
  assert step["operations"] > 50 and call["operations"] > 50
  total = sum(part["operations_per_byte"] for part in case["parts"].values())
  assert case["operations_per_byte"] == pytest.approx(total)
  assert f"{total:.0f} operations a byte" in done.stdout


def test_operations_are_counted_where_they_are_run():
  def step(x):
    x = jax.lax.fori_loop(0, 5, lambda _, y: jnp.sort(jnp.sin(y)), x)
    return jax.lax.while_loop(lambda y: y[0] > 2, lambda y: jnp.sort(-y), x)

  def job(x):
    with jax.named_scope(_operations.scope("outer")):
      return jax.lax.while_loop(lambda y: y.sum() > 1, step, x)

  def counts(x):
    return _operations.count(jax.jit(job).lower(x).compile().as_text())

  found = counts(jnp.arange(8.0))
  # The loop of five steps counts as often as it is run.
  assert found["outer"] >= 10
  assert found[_operations.OUTSIDE] < found["outer"]


@pytest.mark.parametrize(
  ("name", "flag", "message"),
  [
    ("throughput", "--config.shape=3b", "there is no shape '3b'"),
    ("latency", "--config.text=latin", "there is no text 'latin'"),
    ("operations", "--config.text=latin", "there is no text 'latin'"),
    ("tables", "--tokenizers=no-such", "unknown model 'no-such'"),
    ("scoring", "--config.texts=('latin',)", "there is no text 'latin'"),
  ],
)
def test_one_clear_line(name, flag, message):
  done = run(name, flag)
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr
