"""Host: how long the sampling loops take, and what is compiled."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from byteprob.engine import batch
from byteprob.sampling import tokenloop

T = TypeVar("T")

_LOOPS = ((batch, "_generate"), (tokenloop, "run"))
"""The loops that draw bytes and tokens, and where they are called from."""

_COMPILED = "/jax/core/compile/backend_compile_duration"

_listening: list[list[float]] = []


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
  before = [getattr(module, name) for module, name in _LOOPS]

  def timed(run):
    def call(*args, **kwargs):
      jax.block_until_ready((args, kwargs))
      programs, begun = run._cache_size(), time.perf_counter()
      result = jax.block_until_ready(run(*args, **kwargs))
      found.seconds.append(time.perf_counter() - begun)
      found.compiled |= run._cache_size() > programs
      return result

    return call

  for (module, name), run in zip(_LOOPS, before, strict=True):
    setattr(module, name, timed(run))
  try:
    yield found
  finally:
    for (module, name), run in zip(_LOOPS, before, strict=True):
      setattr(module, name, run)


def settled(job: Callable[[], T]) -> tuple[T, float]:
  """Result of a job, and the seconds of its loops when all is compiled.

  A text that needs more room than expected compiles during the job; then the
  job is run again.
  """
  while True:
    with loops_timed() as timed:
      found = job()
    if not timed.compiled:
      return found, sum(timed.seconds)


@contextlib.contextmanager
def programs_counted() -> Iterator[list[float]]:
  """Seconds that each program takes to compile while it is open."""
  _listen()
  found: list[float] = []
  _listening.append(found)
  try:
    yield found
  finally:
    _listening.pop()


@functools.cache
def _listen() -> None:
  jax.monitoring.register_event_duration_secs_listener(_hear)


def _hear(event: str, seconds: float, **_) -> None:
  if event == _COMPILED:
    for found in _listening:
      found.append(seconds)
