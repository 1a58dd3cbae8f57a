"""The generating script, run as its users run it."""

import functools
import re
import signal
import subprocess
import sys

import jax
import pytest

import byteprob
from byteprob import constraints


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


@pytest.mark.slow
def test_many_are_shown_when_all_are_there():
  done = run("--count=3", "--max_bytes=30", "--constraint=identifier")
  assert done.returncode == 0, done.stderr[-2000:]
  samples = byteprob.load().sample(
    ["def main(ar"] * 3,
    jax.random.key(0),
    30,
    temperature=0.7,
    constraint=constraints.IDENTIFIER,
  )
  shown = "".join(
    f"--- {k}: {sample.reason}\ndef main(ar{sample.text.decode()}\n"
    for k, sample in enumerate(samples)
  )
  assert done.stdout.decode() == shown
  for sample in samples:
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", sample.text.decode())


def test_what_is_there_stays_when_it_is_interrupted():
  words = [sys.executable, "-m", "experiments.generate", "--max_bytes=3000"]
  with subprocess.Popen(
    words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    begun = process.stdout.read(len("def main(ar") + 8)
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=300)
  assert begun.startswith(b"def main(ar")
  assert rest.endswith(b"\n")
  assert process.returncode == 130
  assert b"Traceback" not in told


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--constraint=(", b"pattern"),
    ("--eps=2", b"eps"),
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
