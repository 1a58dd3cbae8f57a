"""Device: what each model makes of a round, byte by byte of its draft."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob import covers
from byteprob.covers import NONE
from byteprob.numerics import logsumexp
from byteprob.sampling.state import (
  Lanes,
  lane_of,
  next_bytes,
  with_ending,
  write_path,
)
from byteprob.sampling.tree import Tree
from byteprob.types import EOS


class Seen(NamedTuple):
  """What a model says before each byte of a draft, and after it, `[B, E, ...]`.

  Attributes:
    old: `int32[B, E, W]` lane of each live start at the round's beginning.
    row: `int32[B, E, W]` its row.
    weight: `float32[B, E, W]` its weight, over the text at the beginning.
    total: `float32[B, E, 257]` the same of each next byte.
    shed: `float32[B, E]` share of the text that is left out.
    tree: the new nodes.
  """

  old: Int[Array, "B E W"]
  row: Int[Array, "B E W"]
  weight: Float[Array, "B E W"]
  total: Float[Array, "B E 257"]
  shed: Float[Array, "B E"]
  tree: Tree


def see(limits, tables, member, part, request, begins, draft, tree) -> Seen:
  """What a model says, now that all the new nodes are evaluated.

  Args:
    limits, tables, member, part, tree: of the model.
    request: what is wanted.
    begins: `bool[B]` texts without a byte so far.
    draft: the draft.
  """
  batch, steps, _ = part.node.shape
  # Every live start of every front: from the round's beginning, or new.
  old = jax.vmap(lane_of)(
    member.front.node, part.node.reshape(batch, -1)
  ).reshape(part.node.shape)
  there = part.node != NONE
  new = part.node - member.settled[:, None, None]
  fresh = there & (new >= 0)
  new = jnp.clip(new, 0, limits.tree - 1)
  row = jnp.where(fresh, _pick(tree.row, new), _pick(member.lanes.row, old))
  at = jnp.broadcast_to(jnp.arange(steps)[None], (batch, steps))
  asked = fresh & (at <= draft.size[:, None])[:, :, None]
  asked = jnp.where(asked, row, NONE)
  terms = next_bytes(limits, tables, member.rows, asked, part.place)
  terms = jnp.where(fresh[..., None], terms, part.terms)
  before = _pick(member.lanes.weight, old)
  before = jnp.where(there, before, -jnp.inf)
  shed = jnp.zeros((batch, steps))
  if limits.prunes and steps > 1:
    weight, shed = jax.vmap(
      functools.partial(_prune, limits, jnp.log(request.eps))
    )(
      draft.byte,
      draft.size,
      part.nodes,
      part.silent,
      tree,
      member.settled,
      member.read,
      terms,
      before,
      fresh,
      new,
    )
    tree = tree._replace(weight=weight)
  weight = jnp.where(fresh, _pick(tree.weight, new), before)
  total = logsumexp(weight[..., None] + terms, 2)
  total = total.at[:, 0].set(with_ending(member, total[:, 0], begins))
  return Seen(old, row, weight, total, shed, tree)


class After(NamedTuple):
  """What a model knows after a round, `[B, ...]`.

  Attributes:
    nodes, front, path, lanes: see `state.Member`.
    count: `int32` nodes that are evaluated.
    lost: `float32` log of what pruning has left.
    deepest: `int32` tokens of the longest path.
    in_use: `int32` slots that were in use.
    overflow: `bool` something did not fit.
    short: `bool` slots run short.
  """

  nodes: covers.Nodes
  front: covers.Front
  path: covers.Path
  lanes: Lanes
  count: Int[Array, " B"]
  lost: Float[Array, " B"]
  deepest: Int[Array, " B"]
  in_use: Int[Array, " B"]
  overflow: Bool[Array, " B"]
  short: Bool[Array, " B"]


def settle(
  limits, tables, member, part, request, seen, last, byte, running, goes
) -> After:  # fmt: skip
  """Reads the last byte of a round, after those of the draft that are kept.

  Args:
    limits, tables, member, part, seen: of the model.
    request: what is wanted.
    last: `int32[B]` bytes of the draft that are kept.
    byte: `int32[B]` the byte after them.
    running: `bool[B]` which texts have been going on.
    goes: `bool[B]` in which there is such a byte.
  """
  batch = len(last)
  each = jnp.arange(batch)
  grown = seen.total[each, last, jnp.minimum(byte, EOS)]
  # Others may go on with what this model cannot spell.
  spelled = ~jnp.isneginf(grown)
  count = part.count[each, last]
  before = covers.Front(
    node=part.node[each, last],
    place=part.place[each, last],
    overflow=jnp.zeros(batch, bool),
  )
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(part.nodes._replace(count=count), before, byte, goes & spelled)
  out = goes & ~spelled
  front = front._replace(node=jnp.where(out[:, None], NONE, front.node))
  lanes, shed = jax.vmap(functools.partial(_lanes, limits, request.eps))(
    nodes,
    front,
    before.node,
    count,
    member.settled,
    member.lanes,
    seen.tree,
    seen.weight[each, last],
    seen.row[each, last],
    seen.old[each, last],
    grown,
    member.rows.token.reshape(batch, limits.kept, -1),
  )
  at = jnp.arange(seen.shed.shape[1])[None]
  lost = jnp.where(at < last[:, None], jnp.log1p(-seen.shed), 0.0).sum(1)
  depth = jnp.take_along_axis(nodes.depth, front.node, axis=1)
  live = _in_use(front, lanes)
  return After(
    nodes=nodes,
    front=front,
    path=write_path(part.path, member.read + last, front, goes),
    lanes=lanes,
    count=count,
    lost=lost + jnp.where(goes, jnp.log1p(-shed), 0.0),
    deepest=member.offset + jnp.where(front.node == NONE, 0, depth).max(1),
    in_use=_in_use(member.front, member.lanes) + seen.tree.some.sum(1),
    overflow=front.overflow,
    short=live + 2 * limits.tree > limits.slots,
  )


def _pick(values, index):
  """`values[b, index[b, ...]]`."""
  return jax.vmap(lambda values, index: values[index])(values, index)


def _prune(
  limits, least, byte, size, nodes, silent, tree, settled, read, terms, before,
  fresh, new,
):  # fmt: skip
  """Weights of one text's new nodes, -inf where they begin too light.

  A node's weight when it begins is its share of what is kept of the text.

  Returns:
    `weight[T]`, and the share `[D + 1]` that is left out at each byte.
  """
  node = settled + jnp.arange(limits.tree, dtype=jnp.int32)
  born = jnp.where(tree.there, nodes.end[node] - read, NONE)
  inner = nodes.parent[node] - settled

  def step(at, carry):
    weight, shed = carry
    lanes = jnp.where(fresh[at], weight[new[at]], before[at])
    total = logsumexp(lanes + terms[at, :, byte[at]], 0)
    # A node's parent ends before it, so it has been judged.
    orphan = (inner >= 0) & jnp.isneginf(weight[inner])
    now = born == at + 1
    weight = jnp.where(now & orphan, -jnp.inf, weight)
    share = jnp.where(now, weight - total, -jnp.inf)
    light = now & ((share < least) | silent)
    shed = shed.at[at].set(jnp.where(light, jnp.exp(share), 0.0).sum())
    return jnp.where(light, -jnp.inf, weight), shed

  shed = jnp.zeros(len(byte) + 1)
  return jax.lax.fori_loop(0, size, step, (tree.weight, shed))


def _in_use(front, lanes):
  """How many slots the live starts and their ancestors take."""
  live = (front.node != NONE)[:, :, None]
  return (lanes.attends & live).any(1).sum(1)


def _lanes(
  limits, eps, nodes, front, before, count, settled, lanes, tree, weight, row,
  old, grown, token,
) -> tuple[Lanes, Array]:  # fmt: skip
  """What is known of the live starts after the committed bytes.

  Also the share of the text's probability that is left out with nodes that
  have just begun.
  """
  newborn = (front.node >= count) & (front.node != NONE)
  node = jnp.where(newborn, nodes.parent[front.node], front.node)
  lane = lane_of(before, node)
  index = jnp.clip(node - settled, 0, limits.tree - 1)
  inner = node >= settled
  attends = jnp.where(
    inner[:, None], tree.attends[index], lanes.attends[old[lane]]
  )
  value = token[row[lane], nodes.token[front.node]]
  weight = weight[lane] - grown + jnp.where(newborn, value, 0.0)
  there = front.node != NONE
  shed = jnp.float32(0)
  if limits.prunes:
    light = newborn & (weight < jnp.log(eps))
    shed = jnp.where(light, jnp.exp(weight), 0.0).sum()
    there &= ~light & ~jnp.isneginf(weight)
  return Lanes(
    weight=jnp.where(there, weight, -jnp.inf),
    row=jnp.where(there & ~newborn, row[lane], NONE),
    attends=attends & there[:, None],
  ), shed
