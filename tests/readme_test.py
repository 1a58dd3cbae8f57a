"""Host: the commands, code and links of the documentation do what they say.

The pages are the README, those in docs/ and what stands beside the results.
The Python blocks of docs/ run in `docs_test`, page by page.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
  README,
  *sorted((ROOT / "docs").rglob("*.md")),
  ROOT / "results" / "README.md",
]
"""Pages whose commands are run."""

OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
"""Pages whose links are checked, too."""

MOST_BYTES = 9000
"""Of the README."""

SETUP = "python3 -m venv .venv && .venv/bin/pip install -q -e "


def blocks(page: pathlib.Path, language: str) -> list[str]:
  """The code blocks of a page in a language."""
  text = page.read_text()
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(page: pathlib.Path) -> list[str]:
  """Every line of a page's shell blocks, and commands in its text."""
  lines = []
  for block in blocks(page, "sh"):
    lines += re.sub(r"\\\n\s*", "", block).splitlines()
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
  lines += [
    " ".join(line.split()) for line in re.findall(r"`(python -m [^`]*)`", text)
  ]
  return list(dict.fromkeys(line for line in lines if line))


def installing() -> list[str]:
  """The commands that begin on a machine with nothing but Python."""
  return [line for line in commands(README) if line.startswith(SETUP)]


# What makes a long run short. The command itself is the page's.
SHORT = {
  "experiments.tables": ["--tokenizers=stdlib-bpe"],
  "experiments.scoring": [
    "--config.model=stdlib-bpe",
    "--config.sizes=300,",
    "--config.repeats=1",
  ],
  "experiments.throughput": [
    "--config=configs/throughput.py:tiny",
    "--config.texts=2",
  ],
  "experiments.loading": [
    "--config=configs/loading.py:tiny",
    "--config.model=stdlib-bpe",
    "--config.mesh=model:2",
    "--config.repeats=1",
  ],
  "experiments.plan": ["--layers=none"],
  "experiments.lm_eval": ["--limit=1"],
  "experiments.bias": ["--config.model=stdlib-bpe"],
  "experiments.completion": ["--config.prompts=3"],
  "experiments.cost": ["--config.sizes=8,"],
  "experiments.vocabularies": ["--config.tokenizers=stdlib-bpe,stdlib-spm"],
  "experiments.bits_per_byte": [
    "--config.data=code",
    "--config.size=100",
    "--config.most=2",
  ],
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

WRITES = {"--output": "output", "--json": "found.json", "--figure": "drawn.png"}
"""Flags that name a file to write, and its name in the test's directory."""


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
  for flag, name in WRITES.items():
    if any(word.startswith(f"{flag}=") for word in words):
      short = [*short, f"{flag}={workdir / name}"]
  return [sys.executable, *words[1:], *short]


def asked(line: str) -> tuple[str, ...]:
  """What a command does here, wherever it writes: two alike run once."""
  _, _, script, *words = ours(line, pathlib.Path("."))
  values = dict(word.partition("=")[::2] for word in words)
  for flag in (*WRITES, "--workdir", "--results"):
    values.pop(flag, None)
  return script, *sorted(f"{flag}={value}" for flag, value in values.items())


FIRST = "python -m experiments.next_byte"
"""What the first command runs; a test of its own reads what that prints."""


def different() -> list[str]:
  """One command for each thing that the commands of all pages do."""
  lines = [line for page in PAGES for line in commands(page)]
  found = {asked(FIRST): FIRST}
  for line in lines:
    if not line.startswith(SETUP):
      found.setdefault(asked(line), line)
  return list(found.values())[1:]


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


def test_the_readme_is_short():
  assert len(README.read_bytes()) <= MOST_BYTES


SLOW = (
  "throughput",
  "completion",
  "cost",
  "infilling",
  "markov",
  "sweep",
  "loading",
  "latency",
  "operations",
)
"""Scripts that compile the sampler many times, however little they draw, that
train, or that run others.
"""


def marks(line: str) -> list[pytest.MarkDecorator]:
  """What a command needs."""
  script, *values = asked(line)
  fetched = any("smollm2" in word or "gemma" in word for word in values)
  # The same study of another model is no other code.
  slow = script.removeprefix("experiments.") in SLOW or "gemma3" in line
  return [pytest.mark.download] * fetched + [pytest.mark.slow] * slow


@pytest.mark.parametrize(
  "line",
  [
    pytest.param(line, marks=marks(line), id=asked(line)[0].split(".")[1])
    for line in different()
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
  for flag, name in WRITES.items():
    if f"{flag}=" in line:
      assert (tmp_path / name).exists()


def test_what_the_first_command_prints_is_what_its_page_shows():
  printed = run([sys.executable, *shlex.split(FIRST)[1:]], ROOT)
  page = ROOT / "docs" / "next_byte.md"
  (shown,) = [text for text in blocks(page, "text") if "next byte" in text]
  # Digits may differ in the last place from machine to machine.
  number = re.compile(r"-?\d+\.\d+(e-?\d+)?%?")
  assert number.sub("#", shown).split() == number.sub("#", printed).split()


@pytest.mark.parametrize("code", blocks(README, "python"))
def test_code_runs(code):
  exec(compile(code, "README.md", "exec"), {})


def anchors(page: pathlib.Path) -> set[str]:
  """The names that GitHub gives to a page's headings."""
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
  titles = re.findall(r"^#+ (.*)", text, re.M)
  return {
    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
  }


def targets(page: pathlib.Path) -> list[str]:
  """What a page's links and figures lead to."""
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
  return re.findall(r"\]\(([^)\s]+)[^)]*\)", text)


@pytest.mark.parametrize(
  "page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_and_figures_are_there(page):
  for target in targets(page):
    if re.match(r"[a-z]+:", target):
      continue
    path, _, anchor = target.partition("#")
    found = (page.parent / path) if path else page
    assert found.exists(), target
    assert not anchor or anchor in anchors(found), target


def test_links_of_the_index_lead_to_every_page():
  index = ROOT / "docs" / "index.md"
  linked = {(index.parent / target).resolve() for target in targets(index)}
  assert linked >= set(PAGES) - {README, index}
