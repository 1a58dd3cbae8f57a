"""Host: the programs of the pages in docs/ run; `readme_test` has the rest."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

MOST = {"your_own_model.md": 40}
"""Pages whose programs have fewer lines of code than this."""

RUNNER = """
import pathlib, sys
names = {"__name__": "__main__"}
for number, path in enumerate(sys.argv[1:], 1):
  line, page, code = pathlib.Path(path).read_text().split("\\n", 2)
  try:
    exec(compile("\\n" * int(line) + code, page, "exec"), names)
  except BaseException:
    print(f"{page}: block {number}, line {line}:", file=sys.stderr)
    raise
"""
"""Runs files that hold a line's number, a page's name, and code after it."""


def blocks(text: str) -> list[tuple[int, str]]:
  """The Python blocks of a page.

  A block that is not to be run is marked as another language, such as `text`.

  Returns:
    The line of each one's opening fence, counted from 1, and its code.
  """
  found, code, fence, python = [], [], "", False
  for number, line in enumerate(text.splitlines(), 1):
    mark = re.match(r" *(`{3,}|~{3,})(.*)", line)
    if not fence and mark:
      first, fence, code = number, mark[1], []
      python = mark[2].split()[:1] == ["python"]
    elif fence and mark and mark[1].startswith(fence) and not mark[2].strip():
      if python:
        found.append((first, textwrap.dedent("\n".join(code)) + "\n"))
      fence = ""
    elif fence:
      code.append(line)
  assert not fence, f"the block of line {first} has no end"
  return found


def is_program(code: str) -> bool:
  """Whether code stands alone, rather than goes on from what is above it."""
  return re.search(r"^(import|from) byteprob\b", code, re.M) is not None


def run(page: str, found, tmp_path) -> subprocess.CompletedProcess:
  """Runs blocks one after another in one fresh process."""
  files = []
  for number, (line, code) in enumerate(found):
    files.append(tmp_path / f"block{number}")
    files[-1].write_text(f"{line}\n{page}\n{code}")
  # Not in the repository: a page relies on what is installed.
  path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
  return subprocess.run(
    [sys.executable, "-c", RUNNER, *files],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    capture_output=True,
    text=True,
    timeout=900,
  )


def marks(page: pathlib.Path) -> list[pytest.MarkDecorator]:
  """Whether a page's programs take long."""
  return [pytest.mark.slow] * any(
    "lm.infill(" in code for _, code in blocks(page.read_text())
  )


@pytest.mark.parametrize(
  "page",
  [pytest.param(page, marks=marks(page), id=page.name) for page in PAGES],
)
def test_pages_run(page, tmp_path):
  found = blocks(page.read_text())
  if found:
    done = run(str(page.relative_to(ROOT)), found, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_block_that_fails_is_named_with_its_line(tmp_path):
  page = "a\n```python\nx = 1\n```\n~~~text\n```python\n~~~\n\n```python\n"
  found = blocks(page + "y = x\ny / 0\n```\n")
  assert found == [(2, "x = 1\n"), (9, "y = x\ny / 0\n")]
  done = run("docs/page.md", found, tmp_path)
  assert done.returncode == 1
  assert "docs/page.md: block 2, line 9:" in done.stderr
  assert 'File "docs/page.md", line 11' in done.stderr


@pytest.mark.parametrize("name", MOST)
def test_programs_are_short(name):
  page = ROOT / "docs" / name
  found = [code for _, code in blocks(page.read_text()) if is_program(code)]
  assert found
  for code in found:
    lines = [line.strip() for line in code.splitlines()]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    assert count < MOST[name], code


OWN = ROOT / "docs" / "your_own_model.md"


@pytest.mark.parametrize("number", [0, 1], ids=["table", "numpy"])
def test_own_models_answer_for_paths_alone(number):
  """In any slots, beside other rows, after slots were moved and used again."""
  programs = [code for _, code in blocks(OWN.read_text()) if is_program(code)]
  # What the program draws is not of interest here.
  code = re.sub(r"^print\(.*\n", "", programs[number], flags=re.M)
  names = {"__name__": "program"}
  exec(compile(code, OWN.name, "exec"), names)
  model = names["attention" if number else "trigram"]
  call = jax.jit(model.extend)
  rng = np.random.default_rng(number)
  # The table's text, so that what comes before shows.
  common = np.array(names.get("ids", rng.integers(0, model.vocab_size, 20)))

  def table(path):
    of = names["number"]
    before = of[path[-2]] if len(path) > 1 else 0
    return np.log(names["counts"][before, of[path[-1]]][of])

  def network(path):
    values = names["embed"][list(path)].astype(np.float64)
    scores = values @ values[-1] / 4 - 0.3 * np.arange(len(path))[::-1]
    weights = np.exp(scores) / np.exp(scores).sum()
    return np.tanh(weights @ values) @ names["head"].T

  alone = (table, network)[number]

  def grow(nodes, count):
    """New nodes after any nodes; many go on as the text does."""
    nodes = list(nodes)
    end = len(nodes) + count
    while len(nodes) < end:
      parent = nodes[rng.integers(len(nodes))] if nodes else ()
      (places,) = np.nonzero(common[:-1] == (parent or (-1,))[-1])
      place = rng.choice(places) + 1 if len(places) else 0
      if rng.random() < 0.3:
        place = rng.integers(len(common))
      if (node := (*parent, int(common[place]))) not in nodes:
        nodes.append(node)
    return nodes[end - count :]

  def step(cache, slot_of, new, padding, capacity):
    """One call for two texts: the new nodes, in any order, and padding."""
    size = len(new[0]) + padding
    tokens = rng.integers(0, model.vocab_size, (2, size)).astype(np.int32)
    # Padding may say anything, but for its slot.
    positions = rng.integers(0, 9999, (2, size)).astype(np.int32)
    slots = np.full((2, size), capacity, np.int32)
    slots += rng.integers(0, 5, slots.shape).astype(np.int32)
    mask = rng.random((2, size, capacity)) < 0.5
    for b, nodes in enumerate(new):
      for k, node in enumerate(nodes):
        tokens[b, k], positions[b, k] = node[-1], len(node) - 1
        slots[b, k] = slot_of[b][node]
        above = [node[:j] for j in range(1, len(node) + 1)]
        mask[b, k] = False
        mask[b, k, [slot_of[b][one] for one in above]] = True
    order = rng.permutation(size)
    tokens, positions, slots, mask = (
      x[:, order] for x in (tokens, positions, slots, mask)
    )
    rows, cache = call(model.params, cache, tokens, positions, slots, mask)
    rows = np.asarray(rows)[:, np.argsort(order)]
    for b, nodes in enumerate(new):
      for k, node in enumerate(nodes):
        np.testing.assert_allclose(
          rows[b, k], alone(node), rtol=1e-4, atol=1e-4
        )
    return cache

  capacity = 24
  cache = model.init_cache(2, capacity)
  # What was never written may hold anything.
  cache = jax.tree.map(
    lambda leaf: rng.integers(0, 9, leaf.shape).astype(leaf.dtype), cache
  )
  first = grow([], 12)
  trees = [first, first[::-1]]
  slot_of = [
    dict(zip(tree, rng.permutation(capacity).tolist(), strict=False))
    for tree in trees
  ]
  cache = step(cache, slot_of, trees, 3, capacity)

  # One branch lives on; slots move, there are more of them, and texts swap.
  kept = max(first, key=len)
  path = [kept[:k] for k in range(1, len(kept) + 1)]
  capacity = 32
  moved = [rng.permutation(capacity).tolist() for _ in range(2)]
  order = np.zeros((2, capacity), np.int32)
  after = []
  for b in range(2):
    old = slot_of[1 - b]
    after.append(dict(zip(path, moved[b], strict=False)))
    for node, slot in after[b].items():
      order[b, slot] = old[node]
  cache = jax.tree.map(
    lambda leaf: np.asarray(leaf)[np.array([[1], [0]]), order], cache
  )
  # Later rows go where dead ones stood.
  for _ in range(3):
    new = grow(path, 6)
    for b in range(2):
      free = sorted(set(range(capacity)) - {after[b][node] for node in path})
      after[b].update(zip(new, free, strict=False))
    cache = step(cache, after, [new, new], 2, capacity)


def test_the_reference_builds(tmp_path):
  page = (ROOT / "docs" / "reference.md").read_text()
  (command,) = re.findall(r"^python -m (pdoc (?:.*\\\n)*.*)$", page, re.M)
  words = command.replace("\\\n", " ").split()
  done = subprocess.run(
    [sys.executable, "-W", "error", "-m", *words, "-o", str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  assert "Warn" not in done.stderr, done.stderr
  for name in words[3:]:
    made = tmp_path / (name.replace(".", "/") + ".html")
    assert "docstring" in made.read_text()
