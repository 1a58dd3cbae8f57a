"""Device: the nodes that some bytes bring, found before the model is called.

Nothing here depends on the model's parameters. A chunk's nodes are logged in
the order of their births, and every frontier entry notes the row that will
tell of it: an old entry's own (below `W`), or `W` plus its place in the log.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from byteprob.engine import frontier as frontiers
from byteprob.engine.config import EngineConfig
from byteprob.engine.frontier import Frontier, live
from byteprob.engine.state import MemberState, one_bit, unpack, used_slots
from byteprob.rules.common import NONE
from byteprob.token_tree import MaskInputs
from byteprob.tokenization.tables import Tables


class NodeLog(NamedTuple):
  """Nodes without a row, `[B, N, ...]`, parents first.

  Attributes:
    node: `int32` number of each, 0 for the root.
    token, depth: see `Frontier`.
    parent: `int32` the parent's row, -1 for the root.
    entry: `int32` index that it takes in the frontier.
    step: `int32` byte of the chunk that it was born at; -1 before the chunk.
    inputs: what decides on the tokens that may follow it.
    count: `int32[B]` how many there are.
  """

  node: Int[Array, "B N"]
  token: Int[Array, "B N"]
  depth: Int[Array, "B N"]
  parent: Int[Array, "B N"]
  entry: Int[Array, "B N"]
  step: Int[Array, "B N"]
  inputs: MaskInputs
  count: Int[Array, " B"]


class Chunk(NamedTuple):
  """Results of reading a chunk's bytes, `[B, C, W]` by byte and entry.

  Attributes:
    frontier: the entries after the last byte.
    row: `int32[B, W]` row number of each of them, -1 for none.
    log: the nodes without a row.
    trie_node: `int32` of each entry after each byte, -1 where it is gone.
    rows: `int32` row number of each entry after each byte.
    parent: `int32` row number of the parent, for entries that are born at the
      byte; -1 for the others.
    taken: `int32[B]` bytes read.
    overflow: `bool[B]` the frontier is too small for the next byte.
  """

  frontier: Frontier
  row: Int[Array, "B W"]
  log: NodeLog
  trie_node: Int[Array, "B C W"]
  rows: Int[Array, "B C W"]
  parent: Int[Array, "B C W"]
  taken: Int[Array, " B"]
  overflow: Bool[Array, " B"]


def grow_chunk(
  config: EngineConfig,
  tables: Tables,
  member: MemberState,
  text: UInt8[Array, "B n"],
  first: Int[Array, " B"],
  length: Int[Array, " B"],
) -> Chunk:
  """Reads bytes until the log is full, or the chunk or the text ends.

  Args:
    config: the sizes.
    tables: the tokenizer.
    member: the texts before the chunk.
    text: bytes.
    first: where the chunk begins in each.
    length: where each ends.
  """
  batch, width = member.evaluated.shape
  steps = config.chunk_bytes
  each = jnp.arange(batch)[:, None]
  frontier = member.frontier
  log, row = _seed(config, member)
  frontier = frontier._replace(parent=jnp.full_like(frontier.parent, NONE))
  nothing = jnp.full((batch, steps, width), NONE, jnp.int32)
  advance = jax.vmap(functools.partial(frontiers.advance, tables, config))
  no_one = jnp.zeros((batch, width), bool)

  def body(carry):
    step, chunk, going = carry
    byte = text[each[:, 0], jnp.minimum(first + step, text.shape[1] - 1)]
    going &= (first + step < length) & ~chunk.overflow
    # Numbers of nodes are kept by the log.
    now, births, lost = advance(
      chunk.frontier,
      member.num_nodes + chunk.log.count,
      byte.astype(jnp.int32),
      no_one,
      jnp.where(going, config.chunk_nodes - chunk.log.count, -1),
    )
    new, going = births.new, births.read
    place = chunk.log.count[:, None] + jnp.cumsum(new, 1) - 1
    at = jnp.where(new, place, config.chunk_nodes)
    above = jnp.take_along_axis(chunk.row, births.parent, 1)
    # A node has no parent to wait for: the log knows it.
    now = now._replace(parent=chunk.frontier.parent)

    def put(old, fresh):
      return old.at[each, at].set(fresh, mode="drop")

    entry = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), new.shape)
    old = chunk.log
    log = NodeLog(
      node=put(old.node, now.node),
      token=put(old.token, now.token),
      depth=put(old.depth, now.depth),
      parent=put(old.parent, above),
      entry=put(old.entry, entry),
      step=put(old.step, jnp.full_like(entry, step)),
      inputs=jax.tree.map(put, old.inputs, frontiers.mask_inputs(now)),
      count=old.count + new.sum(1),
    )
    row = jnp.where(new, width + place, chunk.row)
    row = jnp.where(live(now), row, NONE).astype(jnp.int32)
    here = jnp.where(going, step, steps)
    every = each[:, 0]
    return (
      step + 1,
      Chunk(
        frontier=now,
        row=row,
        log=log,
        trie_node=chunk.trie_node.at[every, here].set(
          now.trie_node, mode="drop"
        ),
        rows=chunk.rows.at[every, here].set(row, mode="drop"),
        parent=chunk.parent.at[every, here].set(
          jnp.where(new, above, NONE), mode="drop"
        ),
        taken=chunk.taken + going,
        overflow=chunk.overflow | lost,
      ),
      going,
    )

  start = Chunk(
    frontier=frontier,
    row=row,
    log=log,
    trie_node=nothing,
    rows=nothing,
    parent=nothing,
    taken=jnp.zeros((batch,), jnp.int32),
    overflow=jnp.zeros((batch,), bool),
  )
  everyone = jnp.ones((batch,), bool)
  return jax.lax.while_loop(
    lambda carry: (carry[0] < steps) & carry[2].any(),
    body,
    (jnp.int32(0), start, everyone),
  )[1]


def _seed(
  config: EngineConfig, member: MemberState
) -> tuple[NodeLog, Int[Array, "B W"]]:
  """The log of entries that are not yet evaluated, and every entry's row."""
  frontier = member.frontier
  batch, width = member.evaluated.shape
  count = config.chunk_nodes
  each = jnp.arange(batch)[:, None]
  entry = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (batch, width))
  some = (frontier.node != NONE) & ~member.evaluated
  before = frontier.node[:, None] < frontier.node[:, :, None]
  rank = (before & some[:, None]).sum(2, dtype=jnp.int32)
  at = jnp.where(some, rank, count)
  row = jnp.where(some, width + rank, entry)
  row = jnp.where(frontier.node == NONE, NONE, row)
  waits = frontier.parent != NONE
  parent = jnp.where(
    waits, jnp.take_along_axis(row, jnp.maximum(frontier.parent, 0), 1), NONE
  )

  def put(values, fill=NONE):
    empty = jnp.full((batch, count, *values.shape[2:]), fill, values.dtype)
    return empty.at[each, at].set(values, mode="drop")

  log = NodeLog(
    node=put(frontier.node),
    token=put(frontier.token),
    depth=put(frontier.depth, 0),
    parent=put(parent),
    entry=put(entry),
    step=put(jnp.full_like(entry, NONE)),
    inputs=jax.tree.map(put, frontiers.mask_inputs(frontier)),
    count=some.sum(1, dtype=jnp.int32),
  )
  return log, row


class Schedule(NamedTuple):
  """Which logged nodes the model sees, and where their keys go.

  Attributes:
    needed: `bool[B, N]`.
    leads: `bool[B, N]` those of them that lead to an entry after the chunk;
      and, if its last byte is scored, entries that have read a part of their
      next token.
    slot: `int32[B, N]` slot of each, `S` for none.
    attends: `uint32[B, N, S / 32]` slots of its ancestors, and its own if it
      is needed.
    full: `bool[B]` there are too few slots.
  """

  needed: Bool[Array, "B N"]
  leads: Bool[Array, "B N"]
  slot: Int[Array, "B N"]
  attends: UInt32[Array, "B N S/32"]
  full: Bool[Array, " B"]


def assign_slots(
  config: EngineConfig,
  member: MemberState,
  chunk: Chunk,
  every: Bool[Array, " B"],
  last: Bool[Array, " B"],
  scored: Bool[Array, ""],
) -> Schedule:
  """Chooses the nodes that the model has to see, and gives them slots.

  Args:
    config: the sizes.
    member: the texts before the chunk.
    chunk: the chunk.
    every: texts whose nodes are all needed: each byte's log-prob is wanted.
      Else those will do that lead to an entry after the chunk.
    last: texts whose last entries are needed, too.
    scored: whether the last byte's log-prob is wanted.
  """
  batch, count = chunk.log.node.shape
  width = config.max_frontier
  each = jnp.arange(batch)[:, None]
  place = jnp.arange(count, dtype=jnp.int32)
  there = place[None] < chunk.log.count[:, None]

  # What leads to the last entries.
  fresh = (chunk.row >= width) & live(chunk.frontier)
  own = jnp.where(fresh, chunk.row - width, count)
  alive = jnp.zeros((batch, count), bool).at[each, own].set(True, mode="drop")
  above = chunk.log.parent - width

  def lead(k, marks):
    at = count - 1 - k
    up = jnp.where(alive[:, at] | marks[:, at], above[:, at], count)
    up = jnp.where(up < 0, count, up)
    return marks.at[each[:, 0], up].set(True, mode="drop")

  leads = jax.lax.fori_loop(0, count, lead, jnp.zeros((batch, count), bool))
  # The last byte's probability needs all of these, but for the youngest.
  begun = jnp.where(chunk.frontier.trie_node > frontiers.ROOT, own, count)
  ends = leads.at[each, begun].set(True, mode="drop")
  leads = jnp.where(scored, ends, leads)
  needed = leads | (alive & last[:, None]) | every[:, None]
  needed &= there

  rank = jnp.cumsum(needed, 1) - 1
  used = unpack(used_slots(member))
  free = jnp.cumsum(~used, 1) - 1
  nth = jnp.full((batch, count), config.capacity, jnp.int32)
  slots = jnp.arange(config.capacity, dtype=jnp.int32)
  nth = nth.at[each, jnp.where(used, count, free)].set(
    jnp.broadcast_to(slots, used.shape), mode="drop"
  )
  slot = jnp.take_along_axis(nth, jnp.maximum(rank, 0), 1)
  slot = jnp.where(needed, slot, config.capacity)
  full = needed.sum(1) > (~used).sum(1)

  words = member.attends.shape[2]
  bits = one_bit(slot, words)
  parent = chunk.log.parent
  old = jnp.take_along_axis(
    member.attends, jnp.clip(parent, 0, width - 1)[:, :, None], 1
  )
  # An entry from before the chunk knows its ancestors; the root has none.
  entry = jnp.clip(chunk.log.entry, 0, width - 1)
  own = jnp.take_along_axis(member.attends, entry[:, :, None], 1)
  known = (parent == NONE)[:, :, None]
  base = jnp.where(known, own, old)

  def grow(at, attends):
    up = parent[:, at] - width
    above = attends[each[:, 0], jnp.maximum(up, 0)]
    start = jnp.where((up >= 0)[:, None], above, base[:, at])
    return attends.at[:, at].set(start | bits[:, at])

  attends = jax.lax.fori_loop(
    0, chunk.log.count.max(), grow, jnp.zeros_like(base)
  )
  return Schedule(
    needed=needed,
    leads=leads & there,
    slot=slot,
    attends=attends,
    full=full,
  )


def places(chosen: Bool[Array, "B N"]) -> tuple[Int[Array, "B N"], Array]:
  """The places of the chosen ones, in order, and how many there are."""
  batch, count = chosen.shape
  each = jnp.arange(batch)[:, None]
  place = jnp.arange(count, dtype=jnp.int32)
  rank = jnp.cumsum(chosen, 1) - 1
  order = jnp.zeros((batch, count), jnp.int32)
  order = order.at[each, jnp.where(chosen, rank, count)].set(
    jnp.broadcast_to(place, chosen.shape), mode="drop"
  )
  return order, chosen.sum(1, dtype=jnp.int32)
