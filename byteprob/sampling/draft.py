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
  Given,
  draw,
  guard_after,
  lane_of,
  next_bytes,
  possible,
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
    guard: `int32[B, D + 1]` states of the constraint.
    terms: `float32[B, D + 1, W, 257]` what evaluated live starts say.
    silent: `bool[B, T]` new nodes that are too light to be evaluated; their
      live starts stay in the fronts, for the tokenizer's law.
    nodes, path: as grown by the draft.
    doubt: `float32[B]` weight of the nodes not evaluated.
    going: `bool[B]` whether to go on.
  """

  size: Int[Array, " B"]
  byte: Int[Array, "B D"]
  node: Int[Array, "B E W"]
  place: Int[Array, "B E W"]
  count: Int[Array, "B E"]
  guard: Int[Array, "B E"]
  terms: Float[Array, "B E W 257"]
  silent: Bool[Array, "B T"]
  nodes: covers.Nodes
  path: covers.Path
  doubt: Float[Array, " B"]
  going: Bool[Array, " B"]


def draft_bytes(limits, tables, request, state, forced: Given | None) -> Draft:
  """Drafts the bytes that are forced, then what evaluated rows say."""
  batch, width = state.front.node.shape
  deep = limits.ahead
  waiting = (state.front.node >= state.settled[:, None]) & (
    state.front.node != NONE
  )
  weight = jnp.where(waiting, state.lanes.weight, -jnp.inf)
  mute = waiting & jnp.isneginf(state.lanes.weight) & limits.prunes

  def begin(shape, fill=NONE):
    return jnp.full((batch, *shape), fill, jnp.int32)

  draft = Draft(
    size=begin((), 0),
    byte=begin((deep,), 0),
    node=begin((deep + 1, width)).at[:, 0].set(state.front.node),
    place=begin((deep + 1, width)).at[:, 0].set(state.front.place),
    count=begin((deep + 1,), 0).at[:, 0].set(state.nodes.count),
    guard=begin((deep + 1,), 0).at[:, 0].set(state.guard),
    terms=jnp.full((batch, deep + 1, width, 257), -jnp.inf),
    silent=_note(limits, state, state.front.node, mute),
    nodes=state.nodes,
    path=state.path,
    doubt=jnp.exp(weight).sum(1),
    going=state.status == RUNNING,
  )
  step = functools.partial(_step, limits, tables, request, state, forced, True)
  return jax.lax.while_loop(lambda draft: draft.going.any(), step, draft)


def draft_more(limits, tables, request, state, draft, proposed: Given) -> Draft:
  """Goes on with the bytes that something proposes to follow the draft."""
  first = draft.size[:, None]
  at = jnp.arange(limits.ahead)[None] - first
  byte = jnp.take_along_axis(proposed.byte, jnp.maximum(at, 0), axis=1)
  given = Given(byte=byte, size=draft.size + proposed.size)
  draft = draft._replace(going=state.status == RUNNING)
  step = functools.partial(_step, limits, tables, request, state, given, False)
  return jax.lax.while_loop(lambda draft: draft.going.any(), step, draft)


def _step(limits, tables, request, state, given, free, draft: Draft) -> Draft:
  """Drafts a byte: one that is given, or else, if `free`, one drawn."""
  batch = len(draft.size)
  deep, each, at = limits.ahead, jnp.arange(batch), draft.size
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
  guard = draft.guard[each, at]
  logprobs = possible(request, guard, total - norm[:, None])
  byte = draw(request, state, at, logprobs)
  going = jnp.isfinite(logprobs.max(1)) & (draft.doubt <= limits.doubt) & free
  if given is not None:
    here = at < given.size
    index = jnp.minimum(at, given.byte.shape[1] - 1)
    byte = jnp.where(here, given.byte[each, index], byte)
    going |= here
  room = jnp.minimum(deep, state.limit - state.length - 1)
  going &= draft.going & (at < room) & (byte != EOS)
  guard = guard_after(request, guard, byte)
  going &= guard != NONE
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(
    draft.nodes,
    covers.Front(node, place, jnp.zeros(batch, bool)),
    byte,
    going,
  )
  fits = ~front.overflow & (nodes.count - state.settled <= limits.tree)
  going &= fits & (front.node != NONE).any(1)
  born, parent, share = jax.vmap(functools.partial(_born, limits))(
    draft.nodes.count,
    nodes,
    state.front.node,
    state.lanes,
    state.rows.token.reshape(batch, limits.kept, -1),
  )
  share -= total[each, jnp.minimum(byte, EOS)][:, None]
  known = parent < state.settled[:, None]
  silent = draft.silent
  if limits.prunes:
    # What is known of the text is less than its probability, so what seems
    # too light now is too light in truth.
    inner = jnp.clip(parent - state.settled[:, None], 0, limits.tree - 1)
    light = jnp.where(
      known,
      share < jnp.log(request.eps),
      jnp.take_along_axis(silent, inner, axis=1),
    )
    silent |= _note(limits, state, born, light & going[:, None])
    known &= ~light
  share = jnp.where(known, jnp.exp(share), 0.0).sum(1)
  share = jnp.where(going, share, 0.0)
  nodes = nodes._replace(count=jnp.where(fits, nodes.count, draft.nodes.count))
  after = jnp.where(going, at + 1, at)
  last = jnp.where(going, at + 1, deep + 1)
  return Draft(
    size=after,
    byte=draft.byte.at[each, at].set(byte, mode="drop"),
    node=draft.node.at[each, last].set(front.node, mode="drop"),
    place=draft.place.at[each, last].set(front.place, mode="drop"),
    count=draft.count.at[each, last].set(nodes.count, mode="drop"),
    guard=draft.guard.at[each, last].set(guard, mode="drop"),
    terms=draft.terms.at[each, at].set(terms),
    silent=silent,
    nodes=nodes,
    path=write_path(draft.path, state.read + at, front, going),
    doubt=draft.doubt + share * (1 - draft.doubt),
    going=going,
  )


def _born(limits, before, nodes, front_node, lanes, token):
  """The newest nodes `[R]`, -1 after them, their parents and log-weights.

  The weights are right where the parent is evaluated.
  """
  at = before + jnp.arange(limits.capacity.born, dtype=jnp.int32)
  born = jnp.where(at < nodes.count, at, NONE)
  parent = jnp.where(born == NONE, NONE, nodes.parent[born])
  lane = lane_of(front_node, parent)
  value = lanes.weight[lane] + token[lanes.row[lane], nodes.token[born]]
  return born, parent, jnp.where(born == NONE, -jnp.inf, value)


def _note(limits, state, node, true):
  """`bool[B, T]`: the new nodes among `node[B, R]` of which `true` is."""
  at = jnp.where(true, node - state.settled[:, None], limits.tree)
  # Indices below 0 would count from the end.
  at = jnp.where(at < 0, limits.tree, at)
  each = jnp.arange(len(at))[:, None]
  return (
    jnp.zeros((len(at), limits.tree), bool).at[each, at].set(True, mode="drop")
  )
