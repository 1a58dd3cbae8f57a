"""Host: the README's commands and its code do what it says."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

SETUP = "python3 -m venv .venv && .venv/bin/pip install -q -e "


def blocks(language: str) -> list[str]:
  """The code blocks in a language."""
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
  """Every line of the shell blocks, and of the tables of results."""
  lines = [line for block in blocks("sh") for line in block.splitlines()]
  lines += re.findall(r"`(python -m [^`]*)`", README)
  return list(dict.fromkeys(line for line in lines if line))


def installing() -> list[str]:
  """The commands that begin on a machine with nothing but Python."""
  return [line for line in commands() if line.startswith(SETUP)]


# What makes a long run short. The command itself is the README's.
SHORT = {
  "experiments.tables": ["--tokenizers=stdlib-bpe"],
  "experiments.scoring": ["--config.model=stdlib-bpe", "--config.repeats=1"],
  "experiments.throughput": ["--config=configs/throughput.py:tiny"],
  "experiments.lm_eval": ["--limit=1"],
  "experiments.bias": ["--config.model=stdlib-bpe"],
  "experiments.completion": ["--config.prompts=3"],
  "experiments.cost": ["--config.sizes=8,"],
  "experiments.vocabularies": ["--config.tokenizers=stdlib-bpe,stdlib-spm"],
  "experiments.bits_per_byte": ["--config.data=code"],
  "experiments.ensemble": [
    "--config.tasks.piqa=",
    "--config.tasks.hellaswag=",
    "--config.tasks.last_word=",
    "--config.tasks.gsm8k=",
    "--config.tasks.mbpp=",
    "--config.tasks.wikitext=",
    "--config.tasks.code=code",
    "--config.most=2",
  ],
  "experiments.infilling": [
    "--config.model=stdlib-bpe",
    "--config.data=sample",
    "--config.longest=0",
  ],
}


def ours(line: str, workdir: pathlib.Path) -> list[str]:
  """A command, run by this Python; a study in its tiny variant."""
  words = shlex.split(line)
  assert words[:2] == ["python", "-m"], line
  short = [] if "--help" in words else SHORT.get(words[2], [])
  if any(word.startswith("--workdir=") for word in words):
    name = words[2].removeprefix("experiments.")
    # What changes a configuration comes after it.
    words.insert(3, f"--config=configs/{name}.py:tiny")
    kept = workdir / "kept" / name
    short = [f"--workdir={workdir}", f"--results={kept}", *short]
  if any(word.startswith("--output=") for word in words):
    short = [*short, f"--output={workdir / 'output'}"]
  return [sys.executable, *words[1:], *short]


def run(words: list[str], cwd: pathlib.Path) -> str:
  """Runs a command with the repository on the path, away from its results."""
  done = subprocess.run(
    words, cwd=cwd, capture_output=True, text=True, timeout=900
  )
  # absl's help ends with 1.
  assert done.returncode == ("--help" in words), done.stderr[-2000:]
  return done.stdout


def test_one_command_installs_and_runs_and_one_tests():
  first, second = installing()
  assert first.endswith(". && .venv/bin/python -m experiments.next_byte")
  script = (ROOT / ".ci" / "run").read_text().splitlines()
  assert script[-1] == second


SLOW = ("throughput", "completion", "cost", "infilling", "markov", "sweep")
"""Scripts that compile the sampler many times, however little they draw, that
train, or that run others.
"""


def marks(line: str) -> list[pytest.MarkDecorator]:
  """What a command needs."""
  found = [pytest.mark.download] * ("smollm2" in line or "gemma" in line)
  script = line.split()[2].removeprefix("experiments.")
  # The same study of another model is no other code.
  slow = script in SLOW or "gemma3" in line
  return found + [pytest.mark.slow] * slow


@pytest.mark.parametrize(
  "line",
  [
    pytest.param(line, marks=marks(line))
    for line in commands()
    if not line.startswith(SETUP)
  ],
)
def test_commands_run(line, tmp_path):
  assert run(ours(line, tmp_path), ROOT)
  if "--workdir=" in line:
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = list((tmp_path / "figures").glob("*.png"))
    kept = list((tmp_path / "kept").iterdir())
    # A sweep draws nothing.
    assert figures or "experiments.sweep" in line
    assert summary and len(kept) == 1 + len(figures)


def test_what_the_first_command_prints_is_what_the_readme_shows():
  printed = run([sys.executable, "-m", "experiments.next_byte"], ROOT)
  (shown,) = [text for text in blocks("text") if "next byte" in text]
  # Digits may differ in the last place from machine to machine.
  number = re.compile(r"-?\d+\.\d+(e-?\d+)?%?")
  assert number.sub("#", shown).split() == number.sub("#", printed).split()


@pytest.mark.parametrize(
  "code",
  [
    pytest.param(code, marks=[pytest.mark.slow] * ("lm.infill(" in code))
    for code in blocks("python")
  ],
)
def test_code_runs(code):
  exec(compile(code, "README.md", "exec"), {})


def test_links_and_figures_are_there():
  for target in re.findall(r"\]\(([^)#]+)\)", README):
    if not target.startswith("http"):
      assert (ROOT / target).is_file(), target
