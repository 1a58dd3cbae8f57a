"""Device: what the sampler knows of texts under way."""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import constraints, covers, lemma
from byteprob.constraints import Constraint
from byteprob.covers import NONE
from byteprob.pooling import Pool
from byteprob.sampling import controls as controls_
from byteprob.sampling.controls import Controls
from byteprob.types import EOS, Cache, Extend

RUNNING, ENDED, FULL, STOPPED, CONTEXT, IMPOSSIBLE, COMPLETE = range(7)
"""Why a row goes on or has stopped: it runs; the text's end was drawn; as
many bytes as asked for; a stop string; the model's context is full; no byte
was possible; the constraint lets nothing follow.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What the loop is compiled for, of one model.

  Attributes:
    extend: the model.
    capacity: room for nodes.
    sizes: rows of a model call, in ascending order; the smallest that holds
      the new nodes is taken, the last bounds them.
    slots: `S`.
    context_length: see `Model`.
    trust_model: see `lemma.rows`.
    prunes: whether light nodes are left out (`Request.eps`).
  """

  extend: Extend
  capacity: covers.Capacity
  slots: int
  context_length: int
  sizes: tuple[int, ...] = (1, 2, 4, 8)
  trust_model: bool = False
  prunes: bool = False

  @property
  def tree(self) -> int:
    """New nodes of a call at most."""
    return self.sizes[-1]

  @property
  def kept(self) -> int:
    """Rows that are kept of a text."""
    return self.capacity.width + self.tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """What the loop is compiled for.

  Attributes:
    members: the models.
    pool: how what they say becomes one; None for one alone.
    ahead: bytes drafted at most; 0 for one model call a byte.
    doubt: drafting stops when the nodes not yet evaluated weigh more, on
      average over the models.
  """

  members: tuple[Limits, ...]
  pool: Pool | None = None
  ahead: int = 12
  doubt: float = 0.75


class Request(NamedTuple):
  """What is wanted of all texts.

  Attributes:
    controls: how bytes are drawn.
    stops: `uint8[K, L]` stop strings, padded on the left, and `int32[K]`
      their lengths.
    constraint: what the texts must match, or None.
    eps: `float32[]` nodes that weigh less when they begin are left out.
  """

  controls: Controls
  stops: tuple[UInt8[Array, "K L"], Int[Array, " K"]]
  constraint: Constraint | None
  eps: Float[Array, ""]


class Lanes(NamedTuple):
  """What is known of the front's live starts, `[B, W, ...]` each.

  Attributes:
    weight: `float32` log of the node's probability over that of the text.
    row: `int32` which of `Member.rows`, -1 if the node is not evaluated.
    attends: `bool[B, W, S]` slots of the node and its ancestors; without its
      own if it is not evaluated.
  """

  weight: Float[Array, "B W"]
  row: Int[Array, "B W"]
  attends: Bool[Array, "B W S"]


class Member(NamedTuple):
  """What one model knows of a batch of texts.

  A model that cannot spell the text so far has no live starts.

  Attributes:
    nodes: all nodes since the root, `[B, ...]`.
    front: the live starts.
    path: the live starts after each byte, for the tokenizer's law.
    lanes: what is known of them.
    settled: `int32[B]` nodes below it are evaluated.
    offset: `int32[B]` position of the root's row in the model.
    rows: what the evaluated rows say, `[B * kept, ...]`.
    cache: the model's.
    ending: `float32[B]` log-weight of an end of the text that no live start
      tells of; for the empty text of tokenizers that begin with a space.
    read: `int32[B]` bytes of its working text so far.
    kept: `float32[B]` log of the share of the text's probability that pruning
      has left.
    peak: `int32[B]` most slots in use.
  """

  nodes: covers.Nodes
  front: covers.Front
  path: covers.Path
  lanes: Lanes
  settled: Int[Array, " B"]
  offset: Int[Array, " B"]
  rows: lemma.Rows
  cache: Cache
  ending: Float[Array, " B"]
  read: Int[Array, " B"]
  kept: Float[Array, " B"]
  peak: Int[Array, " B"]


class State(NamedTuple):
  """A batch of texts under way.

  Attributes:
    members: what each model knows of them.
    share: `float32[B, K]` logs of the models' shares (see `pooling`).
    text: `uint8[B, M]` the first model's working text: the prompt's bytes,
      then those drawn.
    read: `int32[B]` how many.
    length: `int32[B]` how many of them were drawn.
    logprob: `float32[B, L]` log-probs of the drawn ones, and the end's.
    limit: `int32[B]` how many are wanted.
    key: `key[B]` of each text.
    guard: `int32[B]` the constraint's state.
    status: `int32[B]` see above.
    calls: `int32[B]` model calls, of all models together.
    crowded: `bool[]` something did not fit; the last round was not committed.
    overflow: `bool[]` it was not slots alone, whose lack is seen coming.
    memory: what the draft's source remembers.
  """

  members: tuple[Member, ...]
  share: Float[Array, "B K"]
  text: UInt8[Array, "B M"]
  read: Int[Array, " B"]
  length: Int[Array, " B"]
  logprob: Float[Array, "B L"]
  limit: Int[Array, " B"]
  key: jax.Array
  guard: Int[Array, " B"]
  status: Int[Array, " B"]
  calls: Int[Array, " B"]
  crowded: Bool[Array, ""]
  overflow: Bool[Array, ""]
  memory: Any = None


class Given(NamedTuple):
  """Bytes that are not drawn.

  Attributes:
    byte: `int32[B, D]`.
    size: `int32[B]` how many there are.
  """

  byte: Int[Array, "B D"]
  size: Int[Array, " B"]


class Source(Protocol):
  """Where drafts come from beside the rows; hashable, since it is compiled.

  Whatever it proposes, each byte of a text is drawn exactly: what it does not
  share with the proposal costs time and nothing else.
  """

  def propose(
    self, given: Any, request: Request, memory: Any, state: State, draft: Any
  ) -> tuple[Any, Given]:
    """Bytes that may follow a draft.

    Args:
      given: arrays that do not change.
      request: what is wanted of the texts.
      memory: what it remembers, `State.memory`.
      state: the texts, without the draft.
      draft: the draft so far (`draft.Draft`).

    Returns:
      Its memory and the bytes.
    """

  def crowded(self, memory: Any) -> Bool[Array, ""]:
    """Whether something has not fitted in its memory."""

  def widened(self, given: Any, memory: Any) -> tuple["Source", Any]:
    """On the host: itself with more room."""


def lane_of(front_node, node):
  """Which lane of a front `[W]` holds each node; 0 if none."""
  return (front_node[None, :] == node[:, None]).argmax(1)


def write_path(path, at, front, active):
  """Notes the front after a byte; see `covers.Path`."""
  each = jnp.arange(len(at))
  at = jnp.where(active, at, path.node.shape[1])
  return covers.Path(
    node=path.node.at[each, at].set(front.node, mode="drop"),
    place=path.place.at[each, at].set(front.place, mode="drop"),
  )


def next_bytes(limits, tables, rows, row, place):
  """`lemma.next_bytes` of all texts, `[B, ..., 257]`."""
  first = limits.kept * jnp.arange(len(row), dtype=jnp.int32)
  first = first.reshape(-1, *[1] * (row.ndim - 1))
  flat = jnp.where(row == NONE, NONE, row + first).ravel()
  found = lemma.next_bytes(tables, rows, flat, place.ravel())
  return found.reshape(*row.shape, 257)


def with_ending(member, total, first):
  """Adds the end that no live start tells of, where a text is at its first
  byte.
  """
  ending = jnp.where(first, member.ending, -jnp.inf)
  return total.at[:, EOS].set(jnp.logaddexp(total[:, EOS], ending))


def possible(request, guard, logprobs):
  """Log-probs `[B, 257]` with what the constraint forbids at -inf."""
  if request.constraint is None:
    return logprobs
  allowed = jax.vmap(functools.partial(constraints.allowed, request.constraint))
  return jnp.where(allowed(guard), logprobs, -jnp.inf)


def guard_after(request, guard, byte):
  """The constraint's states `[B]` after a byte each, -1 if it is forbidden."""
  if request.constraint is None:
    return guard
  step = functools.partial(constraints.step, request.constraint)
  return jax.vmap(step)(guard, byte)


def draw(request, state, at, logprobs):
  """Draws with the random numbers of each text's step."""

  def one(key, step, logprobs):
    key = jax.random.fold_in(key, step)
    return controls_.draw(request.controls, key, logprobs)

  return jax.vmap(one)(state.key, state.length + at, logprobs)
