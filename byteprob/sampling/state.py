"""Device: what the sampler knows of texts under way."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import covers, lemma
from byteprob.covers import NONE
from byteprob.sampling import controls as controls_
from byteprob.types import EOS, Cache

RUNNING, ENDED, FULL, STOPPED, CONTEXT, IMPOSSIBLE = range(6)
"""Why a row goes on or has stopped: it runs; the text's end was drawn; as
many bytes as asked for; a stop string; the model's context is full; no byte
was possible.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What the loop is compiled for.

  Attributes:
    capacity: room for nodes.
    ahead: bytes drafted at most; 0 for one model call a byte.
    sizes: rows of a model call, in ascending order; the smallest that holds
      the new nodes is taken, the last bounds them.
    doubt: drafting stops when the nodes not yet evaluated weigh more.
    slots: `S`.
    context_length: see `Model`.
    trust_model: see `lemma.rows`.
  """

  capacity: covers.Capacity
  slots: int
  context_length: int
  ahead: int = 12
  sizes: tuple[int, ...] = (1, 2, 4, 8)
  doubt: float = 0.3
  trust_model: bool = False

  @property
  def tree(self) -> int:
    """New nodes of a call at most."""
    return self.sizes[-1]

  @property
  def kept(self) -> int:
    """Rows that are kept of a text."""
    return self.capacity.width + self.tree


class Lanes(NamedTuple):
  """What is known of the front's live starts, `[B, W, ...]` each.

  Attributes:
    weight: `float32` log of the node's probability over that of the text.
    row: `int32` which of `State.rows`, -1 if the node is not evaluated.
    attends: `bool[B, W, S]` slots of the node and its ancestors; without its
      own if it is not evaluated.
  """

  weight: Float[Array, "B W"]
  row: Int[Array, "B W"]
  attends: Bool[Array, "B W S"]


class State(NamedTuple):
  """A batch of texts under way.

  Attributes:
    nodes: all nodes since the root, `[B, ...]`.
    front: the live starts.
    path: the live starts after each byte, for the tokenizer's law.
    lanes: what is known of them.
    settled: `int32[B]` nodes below it are evaluated.
    offset: `int32[B]` position of the root's row in the model.
    read: `int32[B]` bytes of the working text so far.
    rows: what the evaluated rows say, `[B * kept, ...]`.
    cache: the model's.
    ending: `float32[B]` log-weight of an end of the text that no live start
      tells of; for the empty text of tokenizers that begin with a space.
    text: `uint8[B, M]` bytes drawn.
    logprob: `float32[B, M + 1]` their log-probs, and the end's.
    length: `int32[B]` how many.
    limit: `int32[B]` how many are wanted.
    key: `key[B]` of each text.
    status: `int32[B]` see above.
    calls: `int32[B]` model calls.
    peak: `int32[B]` most slots in use.
    crowded: `bool[]` something did not fit; the last round was not committed.
  """

  nodes: covers.Nodes
  front: covers.Front
  path: covers.Path
  lanes: Lanes
  settled: Int[Array, " B"]
  offset: Int[Array, " B"]
  read: Int[Array, " B"]
  rows: lemma.Rows
  cache: Cache
  ending: Float[Array, " B"]
  text: UInt8[Array, "B M"]
  logprob: Float[Array, "B L"]
  length: Int[Array, " B"]
  limit: Int[Array, " B"]
  key: jax.Array
  status: Int[Array, " B"]
  calls: Int[Array, " B"]
  peak: Int[Array, " B"]
  crowded: Bool[Array, ""]


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


def with_ending(state, total, at):
  """Adds the end that no live start tells of, before the first byte."""
  first = (at == 0) & (state.length == 0)
  ending = jnp.where(first, state.ending, -jnp.inf)
  return total.at[:, EOS].set(jnp.logaddexp(total[:, EOS], ending))


def draw(controls, state, at, logprobs):
  """Draws with the random numbers of each text's step."""

  def one(key, step, logprobs):
    return controls_.draw(controls, jax.random.fold_in(key, step), logprobs)

  return jax.vmap(one)(state.key, state.length + at, logprobs)
