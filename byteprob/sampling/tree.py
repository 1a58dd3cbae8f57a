"""Device: the new nodes of a round, evaluated in one model call."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob import covers, lemma
from byteprob.covers import NONE
from byteprob.sampling.state import lane_of


class Tree(NamedTuple):
  """The nodes not yet evaluated, `[B, T, ...]`, in their order.

  Attributes:
    there: `bool` whether there is one.
    some: `bool` whether it is evaluated: not all are if light ones are left
      out.
    weight: `float32` as in `Lanes`, over the text at the round's beginning.
    row: `int32` where its row is kept.
    slot: `int32` its own slot.
    attends: `bool[B, T, S]` slots of its ancestors and its own.
  """

  there: Bool[Array, "B T"]
  some: Bool[Array, "B T"]
  weight: Float[Array, "B T"]
  row: Int[Array, "B T"]
  slot: Int[Array, "B T"]
  attends: Bool[Array, "B T S"]


def plant(limits, running, member, part) -> Tree:
  """Slots and rows for the new nodes, and what they attend to.

  Args:
    limits, member, part: of one model, for all of these functions.
    running: `bool[B]` which texts go on.
  """
  batch = len(running)
  size = limits.tree

  def one(nodes, settled, running, silent, front_node, lanes):
    at = settled + jnp.arange(size, dtype=jnp.int32)
    there = (at < nodes.count) & running
    some = there & ~silent
    live = (front_node != NONE)[:, None] & lanes.attends
    slot = _ranked(_free(live.any(0), size), some, limits.slots)
    used = (
      jnp.zeros(limits.kept, bool)
      .at[jnp.where(lanes.row == NONE, limits.kept, lanes.row)]
      .set(True, mode="drop")
    )
    row = _ranked(_free(used, size), some, NONE)
    parent = nodes.parent[jnp.where(some, at, 0)]
    # A node that is in the front already knows its ancestors' slots.
    here = (front_node[None, :] == at[:, None]).any(1)
    source = lane_of(front_node, jnp.where(here, at, parent))
    above = lanes.attends[source]
    inner = ~here & (parent >= settled)

    def grow(k, attends):
      known = attends[jnp.maximum(parent[k] - settled, 0)]
      own = jnp.where(inner[k], known, above[k])
      own |= jnp.arange(limits.slots) == slot[k]
      return attends.at[k].set(own & some[k])

    attends = jnp.zeros((size, limits.slots), bool)
    attends = jax.lax.fori_loop(0, size, grow, attends)
    return there, some, slot, row, attends

  there, some, slot, row, attends = jax.vmap(one)(
    part.nodes,
    member.settled,
    running,
    part.silent,
    member.front.node,
    member.lanes,
  )
  return Tree(
    there=there,
    some=some,
    weight=jnp.full((batch, size), -jnp.inf),
    row=row,
    slot=slot,
    attends=attends,
  )


def _free(used, size):
  """The first places that are not in use, past the end if there are none."""
  (found,) = jnp.nonzero(~used, size=size, fill_value=len(used))
  return found.astype(jnp.int32)


def _ranked(free, some, none):
  """One of the free places for each that wants some, in order."""
  rank = jnp.cumsum(some) - 1
  return jnp.where(some, free[rank], none)


def evaluate(limits, tables, params, member, part, tree):
  """One model call on the new nodes; their rows go where they are kept."""
  batch = len(tree.some)
  each = jnp.arange(batch)[:, None]
  # Those that are evaluated stand in front.
  order = jnp.argsort(~tree.some, axis=1, stable=True)
  some, slot, row = tree.some[each, order], tree.slot[each, order], tree.row
  row, attends = row[each, order], tree.attends[each, order]
  at = jnp.where(some, member.settled[:, None] + order, 0)
  token = tables.token_id[part.nodes.token[each, at]]
  position = member.offset[:, None] + part.nodes.depth[each, at]

  stand = functools.partial(covers.standing, tables)
  standing = jax.vmap(stand)(part.nodes, part.path, at)
  kept = each * limits.kept + row
  kept = jnp.where(some, kept, batch * limits.kept)

  def call(size, cache):
    own = slice(0, size)
    logits, cache = limits.extend(
      params,
      cache,
      token[:, own],
      position[:, own],
      slot[:, own],
      attends[:, own],
    )
    rest = ((0, 0), (0, limits.tree - size), (0, 0))
    return jnp.pad(logits.astype(jnp.float32), rest), cache

  needed = some.sum(1).max()
  logits, _ = jax.eval_shape(functools.partial(call, limits.tree), member.cache)
  carry = jnp.zeros(logits.shape), member.cache, jnp.bool_(False)
  before = 0
  for size in limits.sizes:
    # A loop that runs once, or not at all: XLA would copy the whole cache into
    # a conditional, and out of it.
    wanted = (needed > before) & (needed <= size)

    def once(carry, size=size):
      return *call(size, carry[1]), jnp.bool_(True)

    logits, cache, _ = jax.lax.while_loop(
      lambda carry, wanted=wanted: wanted & ~carry[2], once, carry
    )
    carry, before = (logits, cache, jnp.bool_(False)), size
  rows = _keep(
    functools.partial(lemma.rows, tables, trust_model=limits.trust_model),
    member.rows,
    kept.ravel(),
    some.ravel(),
    jax.tree.map(
      lambda leaf: leaf.reshape(len(kept) * limits.tree, *leaf.shape[2:]),
      (logits, standing),
    ),
  )
  return cache, rows


def _keep(make, rows, kept, some, inputs):
  """Makes the new rows and puts them where they are kept."""

  def one_by_one(rows, inputs):
    order = jnp.argsort(~some, stable=True)

    def put(k, rows):
      own = order[k]
      found = make(*jax.tree.map(lambda leaf: leaf[own][None], inputs))
      return jax.tree.map(
        lambda old, new: old.at[kept[own]].set(new[0]), rows, found
      )

    return jax.lax.fori_loop(0, some.sum(), put, rows)

  def at_once(rows, inputs):
    return jax.tree.map(
      lambda old, new: old.at[kept].set(new, mode="drop"), rows, make(*inputs)
    )

  # As in `lemma.rows`; and a CPU does better without those that are padding.
  return jax.lax.platform_dependent(
    rows, inputs, cpu=one_by_one, default=at_once
  )


def weigh(limits, member, part, tree, rows) -> Tree:
  """Weights of the new nodes, parents first.

  A node that is not evaluated may have one; its descendants have none.
  """
  batch = len(tree.some)

  def one(nodes, settled, front_node, lanes, row, there, some, token):
    at = settled + jnp.arange(limits.tree, dtype=jnp.int32)
    at = jnp.where(there, at, 0)
    parent, own = nodes.parent[at], nodes.token[at]
    here = (front_node[None, :] == at[:, None]).any(1) & there
    given = lanes.weight[lane_of(front_node, at)]
    lane = lane_of(front_node, parent)

    def grow(k, weight):
      inner = parent[k] >= settled
      up = jnp.where(inner, parent[k] - settled, 0)
      above = jnp.where(some[up], weight[up], -jnp.inf)
      above = jnp.where(inner, above, lanes.weight[lane[k]])
      source = jnp.where(inner, row[up], lanes.row[lane[k]])
      value = jnp.where(here[k], given[k], above + token[source, own[k]])
      return weight.at[k].set(jnp.where(there[k], value, -jnp.inf))

    start = jnp.full((limits.tree,), -jnp.inf)
    return jax.lax.fori_loop(0, limits.tree, grow, start)

  weight = jax.vmap(one)(
    part.nodes,
    member.settled,
    member.front.node,
    member.lanes,
    tree.row,
    tree.there,
    tree.some,
    rows.token.reshape(batch, limits.kept, -1),
  )
  return tree._replace(weight=weight)
