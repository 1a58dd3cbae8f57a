"""The generating script, run as its users run it."""

import functools
import subprocess
import sys

import jax
import pytest

import byteprob


@functools.cache
def run(*flags: str) -> subprocess.CompletedProcess:
  """Runs the script with flags."""
  words = [sys.executable, "-m", "experiments.generate", *flags]
  return subprocess.run(words, capture_output=True, timeout=600)


def test_it_prints_what_the_library_samples():
  flags = ("--prompt=def __ini", "--max_bytes=30", "--seed=3", "--top_p=0.9")
  done = run(*flags)
  assert done.returncode == 0, done.stderr[-2000:]
  (sample,) = byteprob.load().sample(
    ["def __ini"], jax.random.key(3), 30, temperature=0.7, top_p=0.9
  )
  wanted = b"def __ini" + sample.text
  assert done.stdout == wanted.decode("utf-8", "replace").encode() + b"\n"


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--temperature=0", b"greedy=True"),
    ("--top_p=1.5", b"top_p"),
    ("--model=nothing-like-this", b"nothing-like-this"),
    ("--prompt_file=no/such/file", b"no/such/file"),
  ],
)
def test_a_mistake_gets_one_line(flag, message):
  done = run(flag)
  assert done.returncode
  assert message in done.stderr
  assert done.stderr.count(b"\n") == 1
  assert not done.stdout
