"""Device: the state of texts under way, as one model knows them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from byteprob import lemma
from byteprob.engine.config import WORD, EngineConfig
from byteprob.engine.frontier import Frontier, init_frontier
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, InitCache


class MemberState(NamedTuple):
  """State of one model for a batch of texts, `[B, ...]` each.

  Attributes:
    frontier: the frontier entries.
    num_nodes: `int32[B]` nodes born, the root among them.
    num_bytes: `int32[B]` bytes read.
    root_id: `int32[B]` model id of the root's token.
    offset: `int32[B]` position of the root's row in the model.
    logprob: `float32[B, W]` log of each entry's probability over that of the
      text; undefined while `Frontier.parent` awaits a row.
    evaluated: `bool[B, W]` whether the entry's row has been computed.
    attends: `uint32[B, W, S / 32]` slots of the entry's ancestors and, once it
      is evaluated, its own, a bit each.
    rows: token log-probs after each evaluated entry, `[B, W, ...]`.
    empty_end: `float32[B]` log-weight of the end of the empty text, where no
      entry has it: the tokenizer begins every other text with a space. -inf
      once a byte is read.
    kept: `float32[B]` log of the share of the text's probability that pruning
      has left.
    peak: `int32[B]` most slots in use.
    cache: the model's.
  """

  frontier: Frontier
  num_nodes: Int[Array, " B"]
  num_bytes: Int[Array, " B"]
  root_id: Int[Array, " B"]
  offset: Int[Array, " B"]
  logprob: Float[Array, "B W"]
  evaluated: Bool[Array, "B W"]
  attends: UInt32[Array, "B W S/32"]
  rows: lemma.TokenLogProbs
  empty_end: Float[Array, " B"]
  kept: Float[Array, " B"]
  peak: Int[Array, " B"]
  cache: Cache


def init(
  config: EngineConfig,
  init_cache: InitCache,
  tables: Tables,
  start: Int[Array, " B"],
  root_id: Int[Array, " B"],
) -> MemberState:
  """The state of empty texts: the root alone, not yet evaluated.

  Args:
    config: the sizes.
    init_cache: the model's.
    tables: the tokenizer.
    start: the automaton's state where each text starts (`Tables.start`).
    root_id: model id of the token before each text.
  """
  batch, width = len(root_id), config.max_frontier
  frontier = jax.vmap(lambda one: init_frontier(tables, config, one))(start)
  zero = jnp.zeros((batch,), jnp.int32)
  member = MemberState(
    frontier=frontier,
    num_nodes=zero + 1,
    num_bytes=zero,
    root_id=jnp.asarray(root_id, jnp.int32),
    offset=zero,
    logprob=jnp.full((batch, width), -jnp.inf).at[:, 0].set(0.0),
    evaluated=jnp.zeros((batch, width), bool),
    attends=jnp.zeros((batch, width, config.capacity // WORD), jnp.uint32),
    rows=lemma.no_rows(tables, batch, width),
    empty_end=jnp.full((batch,), -jnp.inf),
    kept=jnp.zeros((batch,)),
    peak=zero,
    cache=init_cache(batch, config.capacity),
  )
  # Weak types would have whatever takes the state compiled once more.
  return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), member)


def unpack(words: UInt32[Array, "... S/32"]) -> Bool[Array, "... S"]:
  """A packed mask, a bool a slot."""
  bits = jnp.arange(WORD, dtype=jnp.uint32)
  bits = bits.reshape(*[1] * words.ndim, WORD)
  found = (words[..., None] >> bits) & 1
  return found.astype(bool).reshape(*words.shape[:-1], -1)


def one_bit(slot: Int[Array, "..."], words: int) -> UInt32[Array, "... S/32"]:
  """A packed mask of one slot, of none if it is past the end."""
  at = jnp.arange(words, dtype=jnp.int32).reshape(*[1] * slot.ndim, words)
  bit = jnp.uint32(1) << (slot & (WORD - 1)).astype(jnp.uint32)
  return jnp.where(at == (slot >> 5)[..., None], bit[..., None], 0)


def used_slots(member: MemberState) -> UInt32[Array, "B S/32"]:
  """Slots that some entry still attends to, packed."""
  there = (member.frontier.node != NONE)[:, :, None]
  return jax.lax.reduce(
    jnp.where(there, member.attends, 0),
    np.uint32(0),
    jax.lax.bitwise_or,
    (1,),
  )


def held(frontier: Frontier) -> Bool[Array, " W"]:
  """Entries of one text that their children's log-probs wait for."""
  count = len(frontier.node)
  waits = (frontier.node != NONE) & (frontier.parent != NONE)
  at = jnp.where(waits, frontier.parent, count)
  return jnp.zeros(count, bool).at[at].set(True, mode="drop")


def waiting(member: MemberState) -> Bool[Array, "B W"]:
  """Entries that can be evaluated next and are not."""
  frontier = member.frontier
  there = (frontier.node != NONE) & (frontier.parent == NONE)
  return there & ~member.evaluated & (member.logprob > -jnp.inf)


def flat(tree: Any) -> Any:
  """Texts and their rows as one axis."""

  def one(leaf):
    batch, rows, *rest = leaf.shape
    return leaf.reshape(batch * rows, *rest)

  return jax.tree.map(one, tree)


def select(
  some: Bool[Array, " B"], new: MemberState, old: MemberState
) -> MemberState:
  """A new state for some texts; what is the same array is not copied."""

  def choose(fresh, before):
    if fresh is before:
      return before
    return jnp.where(some.reshape(-1, *[1] * (before.ndim - 1)), fresh, before)

  return jax.tree.map(choose, new, old)
