"""Host: texts from a byte-level model, many at a time, whole or as a stream.

`loop.run` does the work on the device. Here prompts become its first
state, and whatever does not fit any more is given more room.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from byteprob import constraints, covers, scoring
from byteprob.constraints import Constraint
from byteprob.mesh import split
from byteprob.plan import Query, bucket, pad_texts
from byteprob.rules.common import NONE
from byteprob.sampling import loop
from byteprob.sampling import state as states
from byteprob.sampling.settings import Settings, stop_strings
from byteprob.sampling.state import Lanes, Limits, Request, Source, State
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Model

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
    calls: model calls after the prompt's.
    slots: most rows of the cache in use at once.
    error: share of the text's probability that was left out for `eps`: what
      is left is at most the text's exact probability. Where nothing else acts
      on the draws, the law of the texts differs from the exact one by at most
      its mean (in total variation, over the texts that are drawn).
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A prompt.

  Attributes:
    query: its working text.
    ending: log-weight of an end that the query's nodes do not tell of.
    key: the random key of its text.
  """

  query: Query
  ending: float
  key: jax.Array


class Sampler:
  """A batch of texts under way; `step` goes on with them."""

  def __init__(
    self,
    model: Model,
    tables: Tables,
    prompts: Sequence[Prompt],
    settings: Settings,
    *,
    constraint: Constraint | None = None,
    drafts: Drafts | None = None,
    trust_model: bool = False,
  ):
    """Reads the prompts.

    Raises:
      PromptError: a prompt is longer than the model's context.
    """
    self._model = model
    self._tables = tables
    self._source, self._given = drafts[:2] if drafts else (None, None)
    self.request = Request(
      controls=settings.controls(257),
      stops=stop_strings(settings.stop),
      constraint=constraint,
      eps=jnp.float32(settings.eps),
    )
    self.limits, state = _begin(model, tables, prompts, settings, trust_model)
    if constraint is not None and constraints.complete(constraint, 0):
      state = state._replace(
        status=jnp.full_like(state.status, states.COMPLETE)
      )
    self.state = state._replace(memory=drafts and drafts.memory)

  def step(self, rounds: int = _FOREVER) -> bool:
    """Goes on for a number of rounds (model calls).

    Returns:
      Whether any text still goes on.
    """
    left = jnp.int32(rounds)
    while True:
      self.state, left = loop.run(
        self._model.extend,
        self.limits,
        self._source,
        self._tables,
        self._model.params,
        self.request,
        self._given,
        self.state,
        left,
      )
      going = bool((self.state.status == states.RUNNING).any())
      if not (going and left):
        return going
      if self.state.crowded:
        self.limits, self.state = widen(self._tables, self.limits, self.state)
      else:
        self._source, memory = self._source.widened(
          self._given, self.state.memory
        )
        self.state = self.state._replace(memory=memory)

  def samples(self) -> list[Sample]:
    """The texts so far."""
    names = [
      "text",
      "read",
      "length",
      "logprob",
      "status",
      "calls",
      "peak",
      "kept",
    ]
    state = jax.device_get({name: getattr(self.state, name) for name in names})
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
          slots=int(state["peak"][k]),
          error=max(0.0, -math.expm1(state["kept"][k])),
        )
      )
    return found


def _begin(model, tables, prompts, settings, trust_model):
  """Reads the prompts; the sampler's first state."""
  queries = [prompt.query for prompt in prompts]
  limits = Limits(
    capacity=covers.Capacity(nodes=0, states=1),
    slots=0,
    context_length=model.context_length,
    ahead=settings.ahead,
    sizes=_sizes(settings.rows),
    trust_model=trust_model,
    prunes=settings.eps > 0,
  )
  done = scoring.run(
    model, tables, queries, trust_model=trust_model, keep_rows=True
  )
  scoring.check_numbers(done.sums.ending)
  batch, width = done.front.node.shape
  text = done.path.node.shape[1]
  most = bucket(settings.max_bytes)
  spare = most + settings.ahead + 1
  # Two tokens for three bytes: more room is made where they are more.
  order, attends = _compact(
    done.plan.attends(), 2 * settings.max_bytes // 3 + 4 * limits.tree
  )
  limits = dataclasses.replace(
    limits,
    capacity=covers.Capacity(
      nodes=max(
        done.nodes.token.shape[1],
        bucket(int(done.host_nodes.count.max()) + spare + spare // 4),
      ),
      states=done.nodes.states.shape[2],
      width=width,
    ),
    slots=order.shape[1],
  )
  fresh, _ = jax.vmap(
    lambda start: covers.begin(tables, limits.capacity, start)
  )(jnp.array([query.start for query in queries], jnp.int32))
  live = jnp.asarray(done.host_front.node != NONE)
  lane = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], live.shape)
  rows = jax.tree.map(
    lambda leaf: _grow(leaf, 1, limits.kept).reshape(
      batch * limits.kept, *leaf.shape[2:]
    ),
    done.sums.front_rows,
  )
  state = State(
    nodes=jax.tree.map(_put, fresh, done.nodes),
    front=done.front._replace(overflow=jnp.zeros(batch, bool)),
    path=covers.Path(*(_grow(leaf, 1, text + spare) for leaf in done.path)),
    lanes=Lanes(
      weight=jnp.where(live, done.weights.front, -jnp.inf),
      row=jnp.where(live, lane, NONE),
      attends=jnp.asarray(attends),
    ),
    settled=done.nodes.count,
    offset=jnp.asarray(done.plan.offset),
    rows=rows,
    cache=moved(done.cache, order),
    ending=jnp.array([prompt.ending for prompt in prompts], jnp.float32),
    text=_grow(jnp.asarray(pad_texts(queries)[0]), 1, text + spare, 0),
    read=jnp.array([len(query.text) for query in queries], jnp.int32),
    length=jnp.zeros(batch, jnp.int32),
    logprob=jnp.zeros((batch, most + 1)),
    limit=jnp.full(batch, settings.max_bytes, jnp.int32),
    key=jnp.stack([prompt.key for prompt in prompts]),
    guard=jnp.zeros(batch, jnp.int32),
    status=jnp.full(batch, states.RUNNING, jnp.int32),
    kept=jnp.zeros(batch),
    calls=jnp.zeros(batch, jnp.int32),
    peak=jnp.zeros(batch, jnp.int32),
    crowded=jnp.bool_(False),
  )
  return limits, split(model.params, state, batch)


def _compact(
  attends: Bool[np.ndarray, "B W S"], spare: int
) -> tuple[Int[np.ndarray, "B s"], Bool[np.ndarray, "B W s"]]:
  """Leaves out the slots that no live start attends to.

  Returns:
    Which slot goes to each place, and `attends` of the places; as many of
    these as are needed, and `spare` ones.
  """
  live = attends.any(1)
  count = live.sum(1)
  size = bucket(int(count.max()) + spare)
  order = np.zeros((len(live), size), np.int32)
  moved = np.zeros((*attends.shape[:2], size), bool)
  for row, lanes, new, old in zip(live, attends, moved, order, strict=True):
    (slots,) = np.nonzero(row)
    old[: len(slots)] = slots
    new[:, : len(slots)] = lanes[:, slots]
  return order, moved


@jax.jit
def moved(cache: Cache, order: Int[Array, "B s"]) -> Cache:
  """A cache `[B, S, ...]` with only the slots of an order, in that order."""
  move = jax.vmap(lambda leaf, order: leaf[order])
  return jax.tree.map(lambda leaf: move(leaf, order), cache)


def _sizes(rows: int) -> tuple[int, ...]:
  """One row, and doublings from four: two cost a CPU as much as four."""
  sizes, size = [1], 4
  while size < rows:
    sizes.append(size)
    size *= 2
  return (*sizes, rows)


def _grow(leaf, axis: int, size: int, fill=NONE):
  """An array with more places at the end of an axis."""
  more = [(0, 0)] * leaf.ndim
  more[axis] = (0, max(size - leaf.shape[axis], 0))
  return jnp.pad(leaf, more, constant_values=fill)


def _put(large, small):
  """A larger array with a smaller one at its beginning."""
  return large.at[tuple(slice(size) for size in small.shape)].set(small)


def widen(tables: Tables, limits: Limits, state: State) -> tuple[Limits, State]:
  """More room for everything."""
  batch = len(state.length)
  old, slots = limits.capacity, limits.slots
  capacity = dataclasses.replace(old.twice(), nodes=old.nodes + old.nodes // 2)
  # All nodes that one byte brings are evaluated in one call.
  more = (capacity.born,) if capacity.born > limits.tree else ()
  wider = dataclasses.replace(
    limits,
    capacity=capacity,
    slots=bucket(slots + slots // 2),
    sizes=limits.sizes + more,
  )
  fresh, _ = jax.vmap(lambda start: covers.begin(tables, capacity, start))(
    jnp.zeros(batch, jnp.int32)
  )

  def lanes(leaf, fill):
    return _grow(leaf, 1, capacity.width, fill)

  def keep(leaf):
    leaf = leaf.reshape(batch, limits.kept, *leaf.shape[1:])
    leaf = _grow(leaf, 1, wider.kept)
    return leaf.reshape(batch * wider.kept, *leaf.shape[2:])

  return wider, state._replace(
    nodes=jax.tree.map(_put, fresh, state.nodes),
    front=covers.Front(
      node=lanes(state.front.node, NONE),
      place=lanes(state.front.place, 0),
      overflow=jnp.zeros(batch, bool),
    ),
    path=covers.Path(*(_grow(leaf, 2, capacity.width) for leaf in state.path)),
    lanes=Lanes(
      weight=lanes(state.lanes.weight, -jnp.inf),
      row=lanes(state.lanes.row, NONE),
      attends=_grow(lanes(state.lanes.attends, False), 2, wider.slots, False),
    ),
    rows=jax.tree.map(keep, state.rows),
    cache=jax.tree.map(
      lambda leaf: _grow(leaf, 1, wider.slots, 0), state.cache
    ),
    crowded=jnp.bool_(False),
  )
