"""Device: runs that compile are not what is timed; code can be forgotten."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byteprob.engine import batch
from experiments import _runtime, _timing


@pytest.fixture
def run(monkeypatch):
  """Stands for the sampler's loop."""
  run = jax.jit(lambda x: x + 1)
  monkeypatch.setattr(batch, "_generate", run)
  return run


def test_a_run_that_compiles_is_done_again(run):
  sizes = []

  def job():
    sizes.append(len(batch._generate(jnp.zeros(3))))
    return sizes[-1]

  found, seconds = _timing.settled(job)
  assert found == 3 and seconds > 0
  assert len(sizes) == 2
  # All is compiled now.
  _timing.settled(job)
  assert len(sizes) == 3
  assert batch._generate is run


def test_runs_are_told_of_each_by_itself(run):
  with _timing.loops_timed() as timed:
    batch._generate(jnp.zeros(2))
    batch._generate(jnp.zeros(2))
  assert len(timed.seconds) == 2 and timed.compiled
  with _timing.loops_timed() as timed:
    batch._generate(jnp.zeros(2))
  assert len(timed.seconds) == 1 and not timed.compiled


def test_programs_are_counted_as_they_are_compiled():
  function = jax.jit(lambda x: x * 3.5 - 1.25)
  with _timing.programs_counted() as found:
    function(np.arange(5.0))
    with _timing.programs_counted() as again:
      function(np.arange(5.0))
  assert len(found) == 1 and found[0] > 0
  assert not again


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has such a limit")
def test_compiled_code_is_forgotten_when_there_is_much(run):
  run(jnp.zeros(2))
  _runtime.forget_compiled(most=10**9)
  assert run._cache_size() == 1
  _runtime.forget_compiled(most=0)
  assert run._cache_size() == 0
  assert run(jnp.zeros(2)).shape == (2,)
