"""Device: bytes drawn from what is known, before the model is asked.

New nodes are born as bytes are read, and wait to be evaluated. The draws use
the random numbers that the exact draws will use, so that most of them agree.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob import covers
from byteprob.covers import NONE
from byteprob.numerics import logsumexp
from byteprob.sampling.state import (
  RUNNING,
  draw,
  lane_of,
  next_bytes,
  with_ending,
  write_path,
)
from byteprob.types import EOS


class Draft(NamedTuple):
  """Bytes drafted, and the fronts between them, `[B, D (+ 1), ...]`.

  Attributes:
    size: `int32[B]` bytes drafted.
    byte: `int32[B, D]`.
    node, place: `int32[B, D + 1, W]` the front before each, and the last.
    count: `int32[B, D + 1]` nodes before each, and in the end.
    terms: `float32[B, D + 1, W, 257]` what evaluated live starts say.
    nodes, path: as grown by the draft.
    doubt: `float32[B]` weight of the nodes not evaluated.
    going: `bool[B]` whether to go on.
  """

  size: Int[Array, " B"]
  byte: Int[Array, "B D"]
  node: Int[Array, "B E W"]
  place: Int[Array, "B E W"]
  count: Int[Array, "B E"]
  terms: Float[Array, "B E W 257"]
  nodes: covers.Nodes
  path: covers.Path
  doubt: Float[Array, " B"]
  going: Bool[Array, " B"]


def draft_bytes(limits, tables, controls, state) -> Draft:
  """Draws bytes from what is evaluated, until that is too little."""
  batch, width = state.front.node.shape
  deep = limits.ahead
  capacity = limits.capacity
  each = jnp.arange(batch)
  waiting = (state.front.node >= state.settled[:, None]) & (
    state.front.node != NONE
  )
  weight = jnp.where(waiting, state.lanes.weight, -jnp.inf)

  def begin(shape, fill=NONE):
    return jnp.full((batch, *shape), fill, jnp.int32)

  draft = Draft(
    size=begin((), 0),
    byte=begin((deep,), 0),
    node=begin((deep + 1, width)).at[:, 0].set(state.front.node),
    place=begin((deep + 1, width)).at[:, 0].set(state.front.place),
    count=begin((deep + 1,), 0).at[:, 0].set(state.nodes.count),
    terms=jnp.full((batch, deep + 1, width, 257), -jnp.inf),
    nodes=state.nodes,
    path=state.path,
    doubt=jnp.exp(weight).sum(1),
    going=state.status == RUNNING,
  )

  def read(draft: Draft) -> Draft:
    at = draft.size
    node, place = draft.node[each, at], draft.place[each, at]
    lane = jax.vmap(lane_of)(state.front.node, node)
    own = (node != NONE) & (node < state.settled[:, None])
    pick = functools.partial(jnp.take_along_axis, indices=lane, axis=1)
    row = jnp.where(own, pick(state.lanes.row), NONE)
    weight = jnp.where(own, pick(state.lanes.weight), -jnp.inf)
    terms = next_bytes(limits, tables, state.rows, row, place)
    total = logsumexp(weight[:, :, None] + terms, 1)
    total = with_ending(state, total, at)
    norm = logsumexp(total, 1)
    byte = draw(controls, state, at, total - norm[:, None])
    room = jnp.minimum(deep, state.limit - state.length - 1)
    going = draft.going & (draft.doubt <= limits.doubt) & (at < room)
    going &= (byte != EOS) & ~jnp.isneginf(norm)
    nodes, front = jax.vmap(
      functools.partial(covers.advance, tables, capacity)
    )(
      draft.nodes,
      covers.Front(node, place, jnp.zeros(batch, bool)),
      byte,
      going,
    )
    fits = ~front.overflow & (nodes.count - state.settled <= limits.tree)
    going &= fits
    born = jax.vmap(functools.partial(_born, tables, capacity.born))(
      draft.nodes.count,
      nodes,
      state.front.node,
      state.lanes,
      state.settled,
      state.rows.token.reshape(batch, limits.kept, -1),
    )
    share = jnp.exp(born - total[each, jnp.minimum(byte, EOS)])
    share = jnp.where(going, share, 0.0)
    nodes = nodes._replace(
      count=jnp.where(fits, nodes.count, draft.nodes.count)
    )
    after = jnp.where(going, at + 1, at)
    path = write_path(draft.path, state.read + at, front, going)
    last = jnp.where(going, at + 1, deep + 1)
    return Draft(
      size=after,
      byte=draft.byte.at[each, at].set(byte, mode="drop"),
      node=draft.node.at[each, last].set(front.node, mode="drop"),
      place=draft.place.at[each, last].set(front.place, mode="drop"),
      count=draft.count.at[each, last].set(nodes.count, mode="drop"),
      terms=draft.terms.at[each, at].set(terms),
      nodes=nodes,
      path=path,
      doubt=draft.doubt + share * (1 - draft.doubt),
      going=going,
    )

  return jax.lax.while_loop(lambda draft: draft.going.any(), read, draft)


def _born(tables, room, before, nodes, front_node, lanes, settled, token):
  """Log-weight of the newest nodes that evaluated nodes have borne."""
  at = before + jnp.arange(room, dtype=jnp.int32)
  there = at < nodes.count
  at = jnp.where(there, at, 0)
  parent = nodes.parent[at]
  there &= parent < settled
  lane = lane_of(front_node, parent)
  value = token[lanes.row[lane], nodes.token[at]]
  value = jnp.where(there, lanes.weight[lane] + value, -jnp.inf)
  return logsumexp(value, 0)
