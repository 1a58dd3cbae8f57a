"""Device: bytes drawn from what is known, before the model is asked.

New nodes are born as bytes are read, and wait to be evaluated. The draws use
the random numbers that the exact draws will use, so that most of them agree.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob import covers, pooling
from byteprob.covers import NONE
from byteprob.numerics import logsumexp, normalized
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


class Part(NamedTuple):
  """What one model has of a draft: the fronts between its bytes,
  `[B, D (+ 1), ...]`.

  Attributes:
    node, place: `int32[B, D + 1, W]` the front before each, and the last.
    count: `int32[B, D + 1]` nodes before each, and in the end.
    terms: `float32[B, D + 1, W, 257]` what evaluated live starts say.
    silent: `bool[B, T]` new nodes that are too light to be evaluated; their
      live starts stay in the fronts, for the tokenizer's law.
    nodes, path: as grown by the draft.
    doubt: `float32[B]` weight of the nodes not evaluated.
  """

  node: Int[Array, "B E W"]
  place: Int[Array, "B E W"]
  count: Int[Array, "B E"]
  terms: Float[Array, "B E W 257"]
  silent: Bool[Array, "B T"]
  nodes: covers.Nodes
  path: covers.Path
  doubt: Float[Array, " B"]


class Draft(NamedTuple):
  """Bytes drafted.

  Attributes:
    size: `int32[B]` how many.
    byte: `int32[B, D]`.
    guard: `int32[B, D + 1]` states of the constraint.
    share: `float32[B, K]` the models' shares after them, roughly.
    parts: what each model has of them.
    going: `bool[B]` whether to go on.
  """

  size: Int[Array, " B"]
  byte: Int[Array, "B D"]
  guard: Int[Array, "B E"]
  share: Float[Array, "B K"]
  parts: tuple[Part, ...]
  going: Bool[Array, " B"]


def draft_bytes(setup, tables, request, state, forced: Given | None) -> Draft:
  """Drafts the bytes that are forced, then what evaluated rows say."""
  batch, deep = len(state.length), setup.ahead
  draft = Draft(
    size=jnp.zeros(batch, jnp.int32),
    byte=jnp.zeros((batch, deep), jnp.int32),
    guard=jnp.full((batch, deep + 1), NONE, jnp.int32)
    .at[:, 0]
    .set(state.guard),
    share=state.share,
    parts=tuple(
      _part(limits, deep, member)
      for limits, member in zip(setup.members, state.members, strict=True)
    ),
    going=state.status == RUNNING,
  )
  step = functools.partial(_step, setup, tables, request, state, forced, True)
  return jax.lax.while_loop(lambda draft: draft.going.any(), step, draft)


def _part(limits, deep, member) -> Part:
  """A model's part of a draft before its first byte."""
  batch, width = member.front.node.shape
  waiting = (member.front.node >= member.settled[:, None]) & (
    member.front.node != NONE
  )
  weight = jnp.where(waiting, member.lanes.weight, -jnp.inf)
  mute = waiting & jnp.isneginf(member.lanes.weight) & limits.prunes

  def begin(first, fill=NONE):
    room = jnp.full((batch, deep + 1, *first.shape[1:]), fill, jnp.int32)
    return room.at[:, 0].set(first)

  return Part(
    node=begin(member.front.node),
    place=begin(member.front.place),
    count=begin(member.nodes.count, 0),
    terms=jnp.full((batch, deep + 1, width, 257), -jnp.inf),
    silent=_note(limits, member, member.front.node, mute),
    nodes=member.nodes,
    path=member.path,
    doubt=jnp.exp(weight).sum(1),
  )


def draft_more(setup, tables, request, state, draft, proposed: Given) -> Draft:
  """Goes on with the bytes that something proposes to follow the draft."""
  first = draft.size[:, None]
  at = jnp.arange(setup.ahead)[None] - first
  byte = jnp.take_along_axis(proposed.byte, jnp.maximum(at, 0), axis=1)
  given = Given(byte=byte, size=draft.size + proposed.size)
  draft = draft._replace(going=state.status == RUNNING)
  step = functools.partial(_step, setup, tables, request, state, given, False)
  return jax.lax.while_loop(lambda draft: draft.going.any(), step, draft)


def _step(setup, tables, request, state, given, free, draft: Draft) -> Draft:
  """Drafts a byte: one that is given, or else, if `free`, one drawn."""
  batch, at = len(draft.size), draft.size
  each = jnp.arange(batch)
  every = list(
    zip(setup.members, tables, state.members, draft.parts, strict=True)
  )
  first = (at == 0) & (state.length == 0)
  said = [_say(*one, at, first) for one in every]
  rows = pooling.tempered(setup.pool, [normalized(total) for _, total in said])
  guard = draft.guard[each, at]
  logprobs = possible(
    request, guard, pooling.pooled(setup.pool, rows, draft.share)
  )
  byte = draw(request, state, at, logprobs)
  doubt = sum(part.doubt for part in draft.parts) / len(draft.parts)
  going = jnp.isfinite(logprobs.max(1)) & (doubt <= setup.doubt) & free
  if given is not None:
    here = at < given.size
    index = jnp.minimum(at, given.byte.shape[1] - 1)
    byte = jnp.where(here, given.byte[each, index], byte)
    going |= here
  room = jnp.minimum(setup.ahead, state.limit - state.length - 1)
  going &= draft.going & (at < room) & (byte != EOS)
  guard = guard_after(request, guard, byte)
  going &= guard != NONE
  grown = [_advance(*one, at, byte, going) for one in every]
  # What does not fit for one model is drafted for none.
  fits = functools.reduce(operator.and_, [fit for _, _, fit in grown])
  alive = [(front.node != NONE).any(1) for _, front, _ in grown]
  going &= fits & functools.reduce(operator.or_, alive)
  parts = tuple(
    _note_byte(limits, request, member, part, at, byte, going, *told, *new)
    for (limits, _, member, part), told, (*new, _) in zip(
      every, said, grown, strict=True
    )
  )
  parts = tuple(
    part._replace(
      nodes=part.nodes._replace(
        count=jnp.where(fits, part.nodes.count, old.nodes.count)
      )
    )
    for part, old in zip(parts, draft.parts, strict=True)
  )
  last = jnp.where(going, at + 1, setup.ahead + 1)
  share = pooling.shares(
    setup.pool, draft.share, rows[:, None], jnp.minimum(byte, EOS)[:, None]
  )[:, 1]
  return Draft(
    size=jnp.where(going, at + 1, at),
    byte=draft.byte.at[each, at].set(byte, mode="drop"),
    guard=draft.guard.at[each, last].set(guard, mode="drop"),
    share=jnp.where(going[:, None], share, draft.share),
    parts=parts,
    going=going,
  )


def _say(limits, tables, member, part, at, first):
  """What a model's evaluated rows say of a byte: of each live start, and
  together.
  """
  each = jnp.arange(len(at))
  node, place = part.node[each, at], part.place[each, at]
  lane = jax.vmap(lane_of)(member.front.node, node)
  own = (node != NONE) & (node < member.settled[:, None])
  pick = functools.partial(jnp.take_along_axis, indices=lane, axis=1)
  row = jnp.where(own, pick(member.lanes.row), NONE)
  weight = jnp.where(own, pick(member.lanes.weight), -jnp.inf)
  terms = next_bytes(limits, tables, member.rows, row, place)
  total = logsumexp(weight[:, :, None] + terms, 1)
  return terms, with_ending(member, total, first)


def _advance(limits, tables, member, part, at, byte, going):
  """A model's nodes and front after a byte, and whether they fit."""
  each = jnp.arange(len(at))
  front = covers.Front(
    part.node[each, at], part.place[each, at], jnp.zeros(len(at), bool)
  )
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(part.nodes, front, byte, going)
  new = nodes.count - member.settled
  return nodes, front, ~front.overflow & (new <= limits.tree)


def _note_byte(
  limits, request, member, part, at, byte, going, terms, total, nodes, front
) -> Part:  # fmt: skip
  """A model's part of a draft with one more byte, where it is going."""
  batch, deep = len(at), part.node.shape[1] - 1
  each = jnp.arange(batch)
  born, parent, share = jax.vmap(functools.partial(_born, limits))(
    part.nodes.count,
    nodes,
    member.front.node,
    member.lanes,
    member.rows.token.reshape(batch, limits.kept, -1),
  )
  grown = total[each, jnp.minimum(byte, EOS)]
  # Nothing that is evaluated goes on with the byte: what does, if anything,
  # is not.
  unknown = jnp.isneginf(grown)
  share -= jnp.where(unknown, 0.0, grown)[:, None]
  known = parent < member.settled[:, None]
  silent = part.silent
  if limits.prunes:
    # What is known of the text is less than its probability, so what seems
    # too light now is too light in truth.
    inner = jnp.clip(parent - member.settled[:, None], 0, limits.tree - 1)
    light = jnp.where(
      known,
      share < jnp.log(request.eps),
      jnp.take_along_axis(silent, inner, axis=1),
    )
    silent |= _note(limits, member, born, light & going[:, None])
    known &= ~light
  share = jnp.where(known, jnp.exp(share), 0.0).sum(1)
  share = jnp.where(unknown, (front.node != NONE).any(1), share)
  share = jnp.where(going, share, 0.0)
  last = jnp.where(going, at + 1, deep + 1)
  return Part(
    node=part.node.at[each, last].set(front.node, mode="drop"),
    place=part.place.at[each, last].set(front.place, mode="drop"),
    count=part.count.at[each, last].set(nodes.count, mode="drop"),
    terms=part.terms.at[each, at].set(terms),
    silent=silent,
    nodes=nodes,
    path=write_path(part.path, member.read + at, front, going),
    doubt=part.doubt + share * (1 - part.doubt),
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


def _note(limits, member, node, true):
  """`bool[B, T]`: the new nodes among `node[B, R]` of which `true` is."""
  at = jnp.where(true, node - member.settled[:, None], limits.tree)
  # Indices below 0 would count from the end.
  at = jnp.where(at < 0, limits.tree, at)
  each = jnp.arange(len(at))[:, None]
  return (
    jnp.zeros((len(at), limits.tree), bool).at[each, at].set(True, mode="drop")
  )
