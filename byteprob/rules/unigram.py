"""Device: the law of best-scored paths.

A hypothesis of a node knows its *anchor*, where its piece began, and the sum
of the scores since. Among the nodes of one anchor that end at one byte only
the best stays (Viterbi); a token may follow a node unless a rival from an
earlier node of the same anchor is better. See `byteprob.tokenization.unigram`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob.rules import common
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import LIMB, Tables, UnigramTables

LOCAL = False
"""Paths through other nodes of the text decide too."""

_LANES = 4096
"""Tokens of rivals that are treated at a time."""

_ROOM = 2**22
"""Numbers kept at a time of the rows of a mask."""

_WORST = jnp.iinfo(jnp.int32).min
"""High limb of a score below all others."""


class Sum(NamedTuple):
  """A sum of scores in two limbs; see `UnigramTables`."""

  high: Int[Array, "..."]
  low: Int[Array, "..."]

  def __add__(self, other: "Sum") -> "Sum":
    """The exact sum."""
    return _carry(self.high + other.high, self.low + other.low)

  def __sub__(self, other: "Sum") -> "Sum":
    """The exact difference."""
    return _carry(self.high - other.high, self.low - other.low)

  def __lt__(self, other: "Sum") -> Bool[Array, "..."]:
    """Whether the other is better."""
    same = self.high == other.high
    return (self.high < other.high) | (same & (self.low < other.low))


def _carry(high, low):
  return Sum(high + (low >> LIMB), low & (2**LIMB - 1))


class ViterbiState(NamedTuple):
  """The rule's `law` of each state of each node, `int32[N, H]` each.

  Attributes:
    anchor: the node after which the piece began.
    high, low: the sum of the scores since then, as in `Sum`.
  """

  anchor: Int[Array, "N H"]
  high: Int[Array, "N H"]
  low: Int[Array, "N H"]


class Rivals(NamedTuple):
  """Live starts with the anchor of each state of each row, `[R, H, W]`.

  Attributes:
    place: trie node of the bytes since the start, -1 for none.
    high, low: how much better the start's sum is than the row's.
  """

  place: Int[Array, "R H W"]
  high: Int[Array, "R H W"]
  low: Int[Array, "R H W"]


def begin(tables: Tables, nodes: int, states: int) -> ViterbiState:
  """Initial `law` of each node: the root is the anchor, all sums are 0."""
  del tables
  zero = jnp.zeros((nodes, states), jnp.int32)
  return ViterbiState(anchor=zero, high=zero, low=zero)


def follow(
  tables: Tables,
  lanes: int,
  nodes,
  parent: Int[Array, " W"],
  token: Int[Array, " W"],
) -> tuple[Int[Array, "W H"], ViterbiState, Bool[Array, ""]]:
  """States after tokens behind nodes that end at one byte.

  All of them must be given at once: only the best path of each anchor stays.

  Args:
    tables: the tokenizer.
    lanes: not used.
    nodes: the nodes (`token_tree.TokenTree`).
    parent: the nodes in question, -1 for none.
    token: the tokens, -1 for none.

  Returns:
    The states, all -1 where a token may not stand, what the law keeps of
    them, and whether there were too many states.
  """
  del lanes
  unigram = tables.unigram
  before = jnp.where((token != NONE)[:, None], nodes.states[parent], NONE)
  kind = tables.kind[token][:, None]
  plain = common.step(tables, before, kind)
  after_cut = common.step(tables, common.cut(tables, before), kind)
  states = jnp.concatenate([plain, after_cut], axis=1)
  node = jnp.broadcast_to(nodes.node[parent][:, None], before.shape)
  anchor = jnp.concatenate([nodes.law.anchor[parent], node], axis=1)
  zero = jnp.zeros_like(before)
  since = Sum(
    jnp.concatenate([nodes.law.high[parent], zero], axis=1),
    jnp.concatenate([nodes.law.low[parent], zero], axis=1),
  )
  total = since + Sum(unigram.high[token][:, None], unigram.low[token][:, None])
  beaten = _beaten(nodes, parent, states, anchor, total)
  states = jnp.where(beaten, NONE, states)
  states, anchor, high, low, crowded = common.distinct(
    states, before.shape[1], anchor, *total
  )
  return states, ViterbiState(anchor, high, low), crowded


def _beaten(nodes, parent, states, anchor, total):
  """Whether another lane has a better path of the same anchor, `[W, G]`."""
  able = states != NONE
  start = nodes.end[parent]
  some = able.any(1)
  order = jnp.argsort(~some, stable=True)

  def compare(at, beaten):
    lane = order[at]
    other = Sum(*(limb[lane][None, None, :] for limb in total))
    own = Sum(*(limb[:, :, None] for limb in total))
    rival = able[lane][None, None, :] & (parent != parent[lane])[:, None, None]
    rival &= anchor[lane][None, None, :] == anchor[:, :, None]
    # On a tie the path whose last token starts first is taken.
    earlier = (start[lane] < start)[:, None, None]
    better = (own < other) | (~(other < own) & earlier)
    return beaten | (rival & better).any(2)

  return able & jax.lax.fori_loop(0, some.sum(), compare, jnp.zeros_like(able))


def by_node(
  tables: Tables,
  nodes,
  node: Int[Array, "R W"],
  place: Int[Array, "R W"],
  own: Int[Array, " R"],
) -> Rivals:
  """The rivals at nodes' ends: live starts of the same anchor.

  Args:
    tables: the tokenizer.
    nodes: the nodes.
    node, place: the live starts where each node ends, -1 for none.
    own: the nodes in question.
  """
  del tables
  end, able = nodes.end[own], nodes.states[own] != NONE
  law = jax.tree.map(lambda leaf: leaf[own], nodes.law)
  # The node itself has just begun: its place is the root.
  other = (node != NONE) & (place > 0) & (end > 0)[:, None]
  same = law.anchor[:, :, None, None] == nodes.law.anchor[node][:, None]
  same &= able[:, :, None, None]
  same &= (nodes.states[node] != NONE)[:, None]
  # The anchor itself, where the piece was cut off, begins at no score.
  begins = law.anchor[:, :, None] == nodes.node[node][:, None, :]
  begins &= able[:, :, None]
  # A start's sum since an anchor is the same in all its states.
  which = same.argmax(3)
  found = (same.any(3) | begins) & other[:, None, :]

  def picked(limb):
    values = jnp.broadcast_to(limb[node][:, None], same.shape)
    values = jnp.take_along_axis(values, which[..., None], axis=3)[..., 0]
    return jnp.where(begins, 0, values)

  ahead = Sum(picked(nodes.law.high), picked(nodes.law.low)) - Sum(
    law.high[:, :, None], law.low[:, :, None]
  )
  return Rivals(
    place=jnp.where(found, place[:, None, :], NONE),
    high=ahead.high,
    low=ahead.low,
  )


def mask(
  tables: Tables,
  last: Int[Array, " R"],
  states: Int[Array, "R H"],
  law: Rivals,
) -> Bool[Array, "R Y"]:
  """Which tokens may follow each node.

  Args:
    tables: the tokenizer.
    last: last token of each node, -1 at the root.
    states: states of each node.
    law: from `by_node`.
  """
  del last
  unigram = tables.unigram
  count = len(states)
  room = len(unigram.depth) + len(unigram.entry_token) + len(tables.token_id)
  size = max(1, min(count, _ROOM // room))

  def split(leaf):
    more = ((0, -count % size), *((0, 0) for _ in leaf.shape[1:]))
    leaf = jnp.pad(leaf, more, constant_values=NONE)
    return leaf.reshape(-1, size, *leaf.shape[1:])

  parts = jax.tree.map(split, (states, law))
  found = jax.lax.map(lambda part: _mask(tables, *part), parts)
  return found.reshape(-1, found.shape[-1])[:count]


def _mask(tables, states, law):
  """`mask` of a few rows."""
  _, after_cut = common.ways(tables, states)

  def add(at, allowed):
    def of_state(array):
      return jax.lax.dynamic_index_in_dim(array, at, axis=1, keepdims=False)

    plain, _ = common.ways(tables, of_state(states)[:, None])
    crossing = _crossing(tables, jax.tree.map(of_state, law))
    return allowed | (plain & ~_barred(tables, crossing))

  # States stand in front: nobody has more than the row with most.
  most = (states != NONE).sum(1).max()
  return jax.lax.fori_loop(0, most, add, after_cut)


def _crossing(tables: Tables, rivals: Rivals) -> Sum:
  """How much better the best rival is that ends at each trie node, `[R, M]`.

  The rival's last token spells the bytes since its start and then those of
  the trie node.
  """
  unigram = tables.unigram
  count, width = rivals.place.shape

  def add(lane, best):
    place = rivals.place[:, lane]
    ahead = Sum(rivals.high[:, lane], rivals.low[:, lane])
    first = tables.low[place] + tables.equal[place]
    length = jnp.where(place == NONE, 0, tables.high[place] - first)
    stop = jnp.cumsum(length)

    def some(carry):
      begin, best = carry
      item = begin + jnp.arange(_LANES, dtype=jnp.int32)
      at = common.owner_of(stop, item)
      token = first[at] + item - (stop[at] - length[at])
      depth = unigram.depth[place[at]]
      node = unigram.suffix[unigram.suffix_of[token] + depth - 1]
      value = Sum(ahead.high[at], ahead.low[at])
      value += Sum(unigram.high[token], unigram.low[token])
      able = (item < stop[-1]) & (node != NONE)
      able &= Sum(best.high[at, node], best.low[at, node]) < value
      # One start reaches a trie node by one token: none is written twice.
      at = jnp.where(able, at, count)
      return begin + _LANES, Sum(
        best.high.at[at, node].set(value.high, mode="drop"),
        best.low.at[at, node].set(value.low, mode="drop"),
      )

    start = (jnp.int32(0), best)
    return jax.lax.while_loop(lambda c: c[0] < stop[-1], some, start)[1]

  nothing = jnp.full((count, len(unigram.depth)), _WORST, jnp.int32)
  lanes = jnp.where(rivals.place != NONE, jnp.arange(width)[None] + 1, 0)
  return jax.lax.fori_loop(
    0, lanes.max(), add, Sum(nothing, jnp.zeros_like(nothing))
  )


def _barred(tables: Tables, crossing: Sum) -> Bool[Array, "R Y"]:
  """The tokens that a rival beats."""
  unigram: UnigramTables = tables.unigram
  at = unigram.entry_node
  limit = Sum(unigram.entry_high[None], unigram.entry_low[None])
  better = limit < Sum(crossing.high[:, at], crossing.low[:, at])
  found = jnp.zeros((len(better), len(tables.token_id)), bool)
  return found.at[:, unigram.entry_token].max(better)
