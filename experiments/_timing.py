"""Host: how long the sampling loops take on the device."""

import contextlib
import time
from collections.abc import Iterator

import jax

from byteprob.sampling import loop, tokenloop


@contextlib.contextmanager
def loops_timed() -> Iterator[list[float]]:
  """Seconds of each run of the sampling loops while it is open."""
  seconds: list[float] = []
  before = {module: module.run for module in (loop, tokenloop)}

  def timed(run):
    def call(*args, **kwargs):
      jax.block_until_ready((args, kwargs))
      begun = time.perf_counter()
      result = jax.block_until_ready(run(*args, **kwargs))
      seconds.append(time.perf_counter() - begun)
      return result

    return call

  for module, run in before.items():
    module.run = timed(run)
  try:
    yield seconds
  finally:
    for module, run in before.items():
      module.run = run
