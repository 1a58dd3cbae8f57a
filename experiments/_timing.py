"""Host: how long the sampling loops take on the device."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from byteprob.sampling import loop, tokenloop

T = TypeVar("T")


class Loops:
  """Runs of the sampling loops.

  Attributes:
    seconds: of each.
    compiled: whether any of them was compiled meanwhile, so that the seconds
      are not its own.
  """

  def __init__(self):
    self.seconds: list[float] = []
    self.compiled = False


@contextlib.contextmanager
def loops_timed() -> Iterator[Loops]:
  """Times each run of the sampling loops while it is open."""
  found = Loops()
  before = {module: module.run for module in (loop, tokenloop)}

  def timed(run):
    def call(*args, **kwargs):
      jax.block_until_ready((args, kwargs))
      programs, begun = run._cache_size(), time.perf_counter()
      result = jax.block_until_ready(run(*args, **kwargs))
      found.seconds.append(time.perf_counter() - begun)
      found.compiled |= run._cache_size() > programs
      return result

    return call

  for module, run in before.items():
    module.run = timed(run)
  try:
    yield found
  finally:
    for module, run in before.items():
      module.run = run


def settled(job: Callable[[], T]) -> tuple[T, float]:
  """What a job returns, and the seconds of its loops when all is compiled.

  A text that needs more room than was foreseen compiles on its way; then the
  job is done again.
  """
  while True:
    with loops_timed() as timed:
      found = job()
    if not timed.compiled:
      return found, sum(timed.seconds)
