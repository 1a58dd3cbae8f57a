"""Host: texts from a byte-level model, many at a time, whole or as a stream."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from byteprob import constraints
from byteprob.constraints import Constraint
from byteprob.engine.batch import Batch, Drawn, request_of
from byteprob.engine.generate import (
  COMPLETE,
  CONTEXT,
  ENDED,
  FULL,
  IMPOSSIBLE,
  RUNNING,
  STOPPED,
)
from byteprob.sampling.params import SamplingParams

Reason = Literal[
  "running", "end", "max_bytes", "stop", "context", "impossible", "complete"
]

REASONS: dict[int, Reason] = {
  RUNNING: "running",
  ENDED: "end",
  FULL: "max_bytes",
  STOPPED: "stop",
  CONTEXT: "context",
  IMPOSSIBLE: "impossible",
  COMPLETE: "complete",
}

Scorer = Callable[[Sequence[Drawn]], list[Float[np.ndarray, " n"]]]
"""Log-probs of texts that were drawn, and of their ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A text that was drawn.

  Attributes:
    text: its bytes, without the prompt's.
    reason: why it stopped: the text's "end", "max_bytes", a "stop" string,
      the model's "context" is full, the constraint is "complete" (it lets
      nothing follow), or what it lets follow is "impossible" for the model;
      or it is "running".
    calls: model calls after the prompt's; of an ensemble, those of all its
      members.
    slots: most rows of the cache in use at once, of all members together.
    error: share of the text's probability that was left out for `eps`: what
      is left is at most the text's exact probability. Where nothing else acts
      on the draws, the law of the texts differs from the exact one by at most
      its mean (in total variation, over the texts that are drawn). Of an
      ensemble, the largest of its members'.
  """

  text: bytes
  reason: Reason
  calls: int
  slots: int
  error: float
  _score: Callable[[], Float[np.ndarray, " n"]] = dataclasses.field(
    repr=False, compare=False
  )

  @functools.cached_property
  def logprobs(self) -> Float[np.ndarray, " n"]:
    """Log-prob of each byte by the model itself, and of the end if it ended.

    `float32[n]` in nats, before temperature and the like. A draw needs only
    bounds of them: they are found when they are first asked for, in one pass
    over all texts of the batch.
    """
    return self._score()


class Sampler:
  """A batch of texts under way; `step` goes on with them."""

  def __init__(
    self,
    batch: Batch,
    settings: SamplingParams,
    *,
    constraint: Constraint | None,
    score: Scorer,
  ):
    """Joins texts and what is wanted of them.

    Args:
      batch: the texts.
      settings: how they are drawn.
      constraint: what they must match.
      score: finds log-probs of what was drawn.
    """
    self.batch = batch
    self._exact = settings.exact
    self._score = score
    self.request = request_of(
      settings.warpers(257),
      stop=settings.stop,
      constraint=constraint,
      eps=settings.eps,
      exact=settings.exact,
    )
    batch.limit(settings.max_bytes)
    if constraint is not None and constraints.is_complete(constraint):
      batch.halt(COMPLETE)

  def step(self, rounds: int | None = None) -> bool:
    """Goes on for a number of rounds (calls of each model), or to the end.

    Returns:
      Whether any text still goes on.
    """
    self.batch.run(self.request, rounds=rounds)
    return self.batch.running

  def samples(self) -> list[Sample]:
    """The texts so far."""
    drawn = self.batch.drawn()

    @functools.cache
    def every():
      return (
        [one.logprob for one in drawn] if self._exact else self._score(drawn)
      )

    return [
      Sample(
        text=one.text,
        reason=REASONS[one.status],
        calls=one.calls,
        slots=one.slots,
        error=one.error,
        _score=functools.partial(_nth, every, k),
      )
      for k, one in enumerate(drawn)
    ]


def _nth(every, k):
  return every()[k]
