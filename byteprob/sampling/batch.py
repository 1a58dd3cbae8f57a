"""Host: texts from a byte-level model, many at a time, whole or as a stream.

`loop.run` does the work on the device; `room` makes its first state, and gives
more room to what does not fit any more.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob import constraints
from byteprob.constraints import Constraint
from byteprob.mesh import split
from byteprob.pooling import Pool
from byteprob.sampling import loop, room
from byteprob.sampling import state as states
from byteprob.sampling.settings import Settings, stop_strings
from byteprob.sampling.state import Request, Setup, Source

Reason = Literal[
  "running", "end", "max_bytes", "stop", "context", "impossible", "complete"
]

REASONS: dict[int, Reason] = {
  states.RUNNING: "running",
  states.ENDED: "end",
  states.FULL: "max_bytes",
  states.STOPPED: "stop",
  states.CONTEXT: "context",
  states.IMPOSSIBLE: "impossible",
  states.COMPLETE: "complete",
}

_FOREVER = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A text that was drawn.

  Attributes:
    text: its bytes, without the prompt's.
    logprobs: `float32[n]` log-prob of each byte by the model itself (before
      temperature and the like), in nats; one more for the end, if it ended.
    reason: why it stopped: the text's "end", "max_bytes", a "stop" string,
      the model's "context" is full, the constraint is "complete" (it lets
      nothing follow), or what it lets follow is "impossible" for the model;
      or it is "running".
    calls: model calls after the prompt's; of an ensemble, those of all its
      members.
    slots: most rows of the cache in use at once, of each member.
    error: share of the text's probability that was left out for `eps`: what
      is left is at most the text's exact probability. Where nothing else acts
      on the draws, the law of the texts differs from the exact one by at most
      its mean (in total variation, over the texts that are drawn). Of an
      ensemble, the largest of its members'.
  """

  text: bytes
  logprobs: Float[np.ndarray, " n"]
  reason: Reason
  calls: int
  slots: int
  error: float


class Drafts(NamedTuple):
  """A source of drafts, ready for use; see `state.Source`."""

  source: Source
  given: Any
  memory: Any


class Sampler:
  """A batch of texts under way; `step` goes on with them."""

  def __init__(
    self,
    readers: Sequence[room.Reader],
    settings: Settings,
    *,
    pool: Pool | None = None,
    share: Float[np.ndarray, "B K"] | None = None,
    constraint: Constraint | None = None,
    drafts: Drafts | None = None,
  ):
    """Reads the prompts.

    Args:
      readers: the models.
      settings: how texts are drawn.
      pool: how what several models say becomes one.
      share: logs of the models' shares; not needed for one alone.
      constraint: what the texts must match.
      drafts: where drafts come from beside what is known.

    Raises:
      PromptError: a prompt is longer than a model's context.
    """
    self.params = tuple(reader.model.params for reader in readers)
    self.tables = tuple(reader.tables for reader in readers)
    self._source, self._given = drafts[:2] if drafts else (None, None)
    self.request = Request(
      controls=settings.controls(257),
      stops=stop_strings(settings.stop),
      constraint=constraint,
      eps=jnp.float32(settings.eps),
    )
    begun = [room.read(reader, settings) for reader in readers]
    self.setup = Setup(
      members=tuple(limits for limits, _ in begun),
      pool=pool,
      ahead=settings.ahead,
    )
    members = tuple(member for _, member in begun)
    state = room.begin(readers[0].prompts, members, share, settings)
    state = split(self.params, state, len(readers[0].prompts))
    if constraint is not None and constraints.complete(constraint, 0):
      state = state._replace(
        status=jnp.full_like(state.status, states.COMPLETE)
      )
    self.state = state._replace(memory=drafts and drafts.memory)

  def step(self, rounds: int = _FOREVER) -> bool:
    """Goes on for a number of rounds (calls of each model).

    Returns:
      Whether any text still goes on.
    """
    left = jnp.int32(rounds)
    while True:
      self.state, left = loop.run(
        self.setup,
        self._source,
        self.tables,
        self.params,
        self.request,
        self._given,
        self.state,
        left,
      )
      going = bool((self.state.status == states.RUNNING).any())
      if not (going and left):
        return going
      if self.state.crowded:
        self.setup, self.state = room.widen(self.tables, self.setup, self.state)
      else:
        self._source, memory = self._source.widened(
          self._given, self.state.memory
        )
        self.state = self.state._replace(memory=memory)

  def samples(self) -> list[Sample]:
    """The texts so far."""
    names = ["text", "read", "length", "logprob", "status", "calls"]
    state, members = jax.device_get(
      (
        {name: getattr(self.state, name) for name in names},
        [(member.peak, member.kept) for member in self.state.members],
      )
    )
    peak = sum(peak for peak, _ in members)
    kept = np.min([kept for _, kept in members], axis=0)
    found = []
    for k, length in enumerate(state["length"].tolist()):
      status, read = int(state["status"][k]), int(state["read"][k])
      logprob = state["logprob"][k]
      found.append(
        Sample(
          text=state["text"][k, read - length : read].tobytes(),
          logprobs=logprob[: length + (status == states.ENDED)],
          reason=REASONS[status],
          calls=int(state["calls"][k]),
          slots=int(peak[k]),
          error=max(0.0, -math.expm1(kept[k])),
        )
      )
    return found
