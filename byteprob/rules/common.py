"""Device: what all rules share: the automaton, and runs of a vocabulary."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob.tokenization import cuckoo
from byteprob.tokenization.tables import Tables

NONE = -1
"""No node, no token, no state."""

_CHUNK = 1024
"""Runs that are treated at a time, of many rows; of few rows, fewer."""

_SHIFT = 5
"""Log of `_BLOCK`: a shift is one operation, a floored division eight."""

_BLOCK = 1 << _SHIFT
"""Places that are counted together."""

_PAIRS = 2**17
"""Comparisons that cost less than a search."""


def child(
  tables: Tables, place: Int[Array, "*W"], byte: Int[Array, "*#W"]
) -> Int[Array, "*W"]:
  """The children of trie nodes by a byte, -1 where there is none."""
  key = (place << 8) | byte
  slot = cuckoo.slots(*jnp.broadcast_arrays(place, byte), len(tables.child))
  row = tables.child.at[slot].get(mode="promise_in_bounds")
  there = row[..., 0] == key[..., None]
  return jnp.where(there, row[..., 1], NONE).max(-1)


def step(
  tables: Tables, state: Int[Array, "..."], kind: Int[Array, "..."]
) -> Int[Array, "..."]:
  """The automaton's state after a token of a kind; -1 stays -1."""
  after = tables.next[state, kind].astype(jnp.int32)
  return jnp.where(state == NONE, NONE, after)


def cut(tables: Tables, state: Int[Array, "..."]) -> Int[Array, "..."]:
  """The automaton's state after a cut; -1 stays -1."""
  return jnp.where(state == NONE, NONE, tables.cut[state])


def forms(
  tables: Tables, states: Int[Array, "W F"], token: Int[Array, " W"]
) -> Int[Array, "W F"]:
  """The states of the normalization form's laws after a token, -1 if broken."""
  after = [
    form.next[state, form.kind[token]].astype(jnp.int32)
    for form, state in zip(tables.forms, states.T, strict=True)
  ]
  return jnp.stack(after, axis=1) if after else states


def in_form(tables: Tables, states: Int[Array, "R F"]) -> Bool[Array, "R Y"]:
  """Tokens that keep a text in its normalization form."""
  allowed = jnp.ones((len(states), len(tables.token_id)), bool)
  for form, state in zip(tables.forms, states.T, strict=True):
    allowed &= (form.next[state] != NONE)[:, form.kind]
  return allowed


def distinct(
  states: Int[Array, "W G"], size: int, *rest: Int[Array, "W G"]
) -> tuple[Array, ...]:
  """Different states of each row, in order, -1 after them.

  Args:
    states: -1 for none.
    size: `H`, how many there is room for.
    *rest: what belongs to each state; two are the same if all of it is.

  Returns:
    The states and the rest, `[W, H]` each, and whether there were more than
    `size`.
  """
  count = states.shape[1]
  earlier = jnp.tril(jnp.ones((count, count), bool), -1)
  same = jnp.broadcast_to(earlier, (len(states), count, count))
  for part in (states, *rest):
    same &= part[:, :, None] == part[:, None, :]
  keep = (states != NONE) & ~same.any(2)
  # A sum over a few is one operation; a running sum or a scatter is several.
  rank = (earlier[None] & keep[:, None, :]).sum(2)
  number = jnp.arange(size)[None, :, None]
  goes = keep[:, None, :] & (rank[:, None, :] == number)
  found = jnp.where(goes, states[:, None, :], NONE).max(2)
  others = (jnp.where(goes, part[:, None, :], 0).sum(2) for part in rest)
  others = (jnp.where(found == NONE, NONE, part) for part in others)
  return found, *others, (keep & (rank >= size)).any()


def ways(
  tables: Tables, states: Int[Array, "R H"]
) -> tuple[Bool[Array, "R Y"], Bool[Array, "R Y"]]:
  """Tokens that the automaton lets stand after each node.

  Returns:
    Those that may without a cut before them, as far as the automaton knows,
    and those that may with one.
  """
  kinds = jnp.arange(tables.next.shape[1])

  def able(states):
    after = step(tables, states[:, :, None], kinds[None, None])
    return (after != NONE).any(1)

  # One table look-up a token: bit 0 without a cut, bit 1 with one.
  code = able(states) + 2 * able(cut(tables, states)).astype(jnp.uint8)
  code = code.astype(jnp.uint8)[:, tables.kind]
  return (code & 1).astype(bool), code >= 2


def owner_of(
  stop: Int[Array, " G"], item: Int[Array, " I"]
) -> Int[Array, " I"]:
  """Which list each item belongs to, of lists that follow one another.

  Args:
    stop: where each list ends, ascending.
    item: numbers of items; past the last one the last list is named.
  """
  few = len(stop) * len(item) <= _PAIRS
  method = "compare_all" if few else "scan_unrolled"
  at = jnp.searchsorted(stop, item, side="right", method=method)
  return jnp.minimum(at, len(stop) - 1).astype(jnp.int32)


def running_sum(values: Int[Array, " G"]) -> Int[Array, " G"]:
  """The sums of the values up to each, itself included."""
  count = len(values)
  if count * count > _PAIRS:
    return jnp.cumsum(values)
  # One operation, where a running sum is several.
  upto = jnp.tril(jnp.ones((count, count), bool))
  return jnp.where(upto, values[None], 0).sum(1)


def spread(
  length: Int[Array, "R G"],
  size: int,
  run: Callable[[Array, Array, Array], tuple[Array, Array]],
  places: Int[Array, " Y"],
) -> Bool[Array, "R Y"]:
  """Which places lie in some run of each row.

  Where runs begin and end is written down, and added up inside of blocks, all
  blocks at once, from what the blocks before add up to.

  Args:
    length: how many runs each row has in each of its lists.
    size: length of the order that they are runs of.
    run: `run(row, list, item)` gives `(start, stop)`; called on vectors.
    places: places of that order.
  """
  count, lists = length.shape
  if not lists:
    return jnp.zeros((count, len(places)), bool)
  flat = length.ravel()
  stop = running_sum(flat)
  chunk = min(_CHUNK, 64 * count)

  def write(carry):
    first, edges = carry
    item = first + jnp.arange(chunk, dtype=jnp.int32)
    at = owner_of(stop, item)
    own, number = at, jnp.zeros_like(at)
    if lists > 1:
      own = jax.lax.div(at, jnp.int32(lists))
      number = at - own * lists
    low, high = run(own, number, item - (stop[at] - flat[at]))
    row = jnp.where(item < stop[-1], own, count)
    for place, step in ((low, 1), (high, -1)):
      where = place & (_BLOCK - 1), row, place >> _SHIFT
      edges = edges.at[where].add(step, mode="drop")
    return first + chunk, edges

  # As many runs as lists may lie over one another.
  edges = jnp.zeros((_BLOCK, count, size // _BLOCK + 1), jnp.int16)
  start = jnp.int32(0), edges
  edges = jax.lax.while_loop(lambda c: c[0] < stop[-1], write, start)[1]
  whole = edges.sum(0, dtype=jnp.int32)
  before = (jnp.cumsum(whole, axis=1) - whole).astype(jnp.int16)
  inside = jax.lax.platform_dependent(
    before, edges, cpu=_one_by_one, default=_all_at_once
  )
  row = jnp.arange(count)[:, None]
  return inside[(places & (_BLOCK - 1))[None], row, (places >> _SHIFT)[None]]


def _all_at_once(before, edges):
  return before[None] + jnp.cumsum(edges, axis=0) > 0


def _one_by_one(before, edges):
  # XLA's CPU would add up anew for every place.
  def add(total, edge):
    return total + edge, total + edge > 0

  return jax.lax.scan(add, before, edges)[1]
