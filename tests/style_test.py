"""Host: lint and format, as `pyproject.toml` has them; docstrings."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=str)
def test_ruff_has_nothing_to_say(command):
  done = subprocess.run(
    [sys.executable, "-m", "ruff", *command, "."],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr


def _docstrings(tree):
  """Line and text of each docstring, those of assigned names included."""
  for node in ast.walk(tree):
    match node:
      case ast.Expr(value=ast.Constant(value=str(text))):
        yield node.lineno, text


@pytest.mark.parametrize("package", ["byteprob", "experiments"])
def test_docstrings_name_a_quantity_or_an_action(package):
  found = {
    f"{path.relative_to(ROOT)}:{line}": text
    for path in sorted((ROOT / package).rglob("*.py"))
    for line, text in _docstrings(ast.parse(path.read_text("utf-8")))
  }
  assert found
  assert not [at for at, text in found.items() if text.split()[:1] == ["What"]]
