"""Device: the sampler's loop, many bytes a model call.

Between two model calls all that is known of the text's nodes is the *front*:
the live starts, each with its weight, its row of token log-probs and the
cache slots that it attends to. A round drafts bytes from the rows that are
there (new nodes are born, unevaluated), evaluates all new nodes in one call,
draws the same bytes again from the exact distributions with the same random
numbers, and commits those that agree and the first that does not. So every
committed byte is drawn from its exact distribution, whatever was drafted.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303); drafting with
common random numbers is ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from byteprob import constraints, covers
from byteprob.covers import NONE
from byteprob.numerics import logsumexp
from byteprob.sampling import draft as drafts
from byteprob.sampling import tree as trees
from byteprob.sampling.state import (
  COMPLETE,
  CONTEXT,
  ENDED,
  FULL,
  IMPOSSIBLE,
  RUNNING,
  STOPPED,
  Given,
  Lanes,
  Limits,
  Request,
  Source,
  State,
  draw,
  guard_after,
  lane_of,
  next_bytes,
  possible,
  with_ending,
  write_path,
)
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Extend, Params


@functools.partial(
  jax.jit,
  static_argnames=("extend", "limits", "source"),
  donate_argnames="state",
)
def run(
  extend: Extend,
  limits: Limits,
  source: Source | None,
  tables: Tables,
  params: Params,
  request: Request,
  given: Any,
  state: State,
  rounds: Int[Array, ""],
) -> tuple[State, Int[Array, ""]]:
  """Runs rounds until all texts have stopped, or something does not fit.

  Args:
    extend: the model.
    limits: what the state was made with.
    source: where drafts come from beside the rows, or None.
    tables: the tokenizer.
    params: the model's parameters.
    request: what is wanted.
    given: what the source is given.
    state: the texts; donated.
    rounds: at most so many rounds.

  Returns:
    The texts, and how many rounds are left.
  """

  def go_on(carry):
    state, left = carry
    going = (state.status == RUNNING).any() & ~state.crowded & (left > 0)
    return going & ~source.crowded(state.memory) if source else going

  def body(carry):
    state, left = carry
    propose = source and functools.partial(source.propose, given, request)
    state = go_round(
      extend, limits, tables, params, request, state, propose=propose
    )
    return state, left - 1

  return jax.lax.while_loop(go_on, body, (state, rounds))


def go_round(
  extend: Extend,
  limits: Limits,
  tables: Tables,
  params: Params,
  request: Request,
  state: State,
  *,
  propose: Any = None,
  forced: Given | None = None,
) -> State:
  """One round: a draft, a model call, what is kept of the draft, a byte.

  Args:
    extend, limits, tables, params, request, state: see `run`.
    propose: `Source.propose`, but for its first arguments; or None.
    forced: bytes that the texts go on with whatever their probabilities; the
      round may stop before their end.
  """
  draft = drafts.draft_bytes(limits, tables, request, state, forced)
  memory = state.memory
  if propose is not None:
    memory, proposed = propose(memory, state, draft)
    draft = drafts.draft_more(limits, tables, request, state, draft, proposed)
  tree = trees.plant(limits, state, draft)
  cache, rows = trees.evaluate(
    extend, limits, tables, params, state, draft, tree
  )
  tree = trees.weigh(limits, state, draft, tree, rows)
  state = state._replace(cache=cache, rows=rows, memory=memory)
  return _commit(limits, tables, request, forced, state, draft, tree)


def _commit(limits, tables, request, forced, state, draft, tree) -> State:
  """Draws again from what is exact now, and keeps what agrees."""
  batch = len(state.length)
  steps = limits.ahead + 1
  each = jnp.arange(batch)
  running = state.status == RUNNING

  # Every live start of every front: from the round's beginning, or new.
  old = jax.vmap(lane_of)(
    state.front.node, draft.node.reshape(batch, -1)
  ).reshape(draft.node.shape)
  there = draft.node != NONE
  new = draft.node - state.settled[:, None, None]
  fresh = there & (new >= 0)
  new = jnp.clip(new, 0, limits.tree - 1)
  row = jnp.where(fresh, _pick(tree.row, new), _pick(state.lanes.row, old))
  at = jnp.broadcast_to(jnp.arange(steps)[None], (batch, steps))
  asked = fresh & (at <= draft.size[:, None])[:, :, None]
  asked = jnp.where(asked, row, NONE)
  terms = next_bytes(limits, tables, state.rows, asked, draft.place)
  terms = jnp.where(fresh[..., None], terms, draft.terms)
  before = _pick(state.lanes.weight, old)
  before = jnp.where(there, before, -jnp.inf)
  shed = jnp.zeros((batch, steps))
  if limits.prunes and limits.ahead:
    weight, shed = jax.vmap(
      functools.partial(_prune, limits, jnp.log(request.eps))
    )(draft, tree, state.settled, state.read, terms, before, fresh, new)
    tree = tree._replace(weight=weight)
  weight = jnp.where(fresh, _pick(tree.weight, new), before)
  total = logsumexp(weight[..., None] + terms, 2)
  total = total.at[:, 0].set(
    with_ending(state, total[:, 0], jnp.zeros(batch, jnp.int32))
  )
  norm = logsumexp(total, 2)
  logprobs = total - norm[:, :, None]
  able = jax.vmap(functools.partial(possible, request), 1, 1)(
    draft.guard, logprobs
  )
  drawn = jax.vmap(functools.partial(draw, request, state), 1, 1)(at, able)
  if forced is not None:
    here = at < forced.size[:, None]
    index = jnp.minimum(at, forced.byte.shape[1] - 1)
    byte = jnp.take_along_axis(forced.byte, index, axis=1)
    drawn = jnp.where(here, byte, drawn)

  # The first that differs from the draft, or ends something, is the last.
  drafted = jnp.concatenate(
    [draft.byte, jnp.full((batch, 1), NONE, jnp.int32)], axis=1
  )
  agrees = (drawn == drafted) & (at < draft.size[:, None])
  value = jnp.take_along_axis(able, drawn[:, :, None], axis=2)[:, :, 0]
  impossible = ~jnp.isfinite(value)
  text, logprob = _write(state, drawn, logprobs)
  stopping = _stops(request.stops, text, state.read, state.length, steps)
  halts = stopping | impossible | ~agrees
  last = halts.argmax(1)
  byte = drawn[each, last]
  ended, impossible = byte == EOS, impossible[each, last]
  more = jnp.where(running, last + ~(ended | impossible), 0)
  length = state.length + more
  guard = guard_after(request, draft.guard[each, last], byte)

  # The last byte's nodes are born, to be evaluated in the next round.
  count = draft.count[each, last]
  front = covers.Front(
    node=draft.node[each, last],
    place=draft.place[each, last],
    overflow=jnp.zeros(batch, bool),
  )
  goes = running & ~ended & ~impossible
  front_before = front.node
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(draft.nodes._replace(count=count), front, byte, goes)
  lanes, shed_last = jax.vmap(functools.partial(_lanes, limits, request.eps))(
    nodes,
    front,
    front_before,
    count,
    state.settled,
    state.lanes,
    tree,
    weight[each, last],
    row[each, last],
    old[each, last],
    total[each, last, jnp.minimum(byte, EOS)],
    state.rows.token.reshape(batch, limits.kept, -1),
  )
  lost = jnp.where(at < last[:, None], jnp.log1p(-shed), 0.0).sum(1)
  lost += jnp.where(goes, jnp.log1p(-shed_last), 0.0)
  deepest = state.offset + jnp.where(
    front.node == NONE, 0, jnp.take_along_axis(nodes.depth, front.node, axis=1)
  ).max(1)
  status = jnp.select(
    [
      ~running,
      impossible,
      ended,
      stopping[each, last],
      _complete(request, guard),
      length >= state.limit,
      deepest + limits.tree >= limits.context_length,
    ],
    [state.status, IMPOSSIBLE, ENDED, STOPPED, COMPLETE, FULL, CONTEXT],
    RUNNING,
  ).astype(jnp.int32)
  # What does not fit is done again, with more room; a lack of slots can be
  # seen coming.
  overflow = (goes & (status == RUNNING) & front.overflow).any()
  live = _in_use(front, lanes)
  short = (running & (live + 2 * limits.tree > limits.slots)).any()
  in_use = _in_use(state.front, state.lanes) + tree.some.sum(1)

  def unless_void(new, old):
    return jax.tree.map(
      lambda new, old: jnp.where(overflow, old, new), new, old
    )

  # Whatever lies past the counts is written over later.
  return state._replace(
    nodes=nodes._replace(count=unless_void(nodes.count, state.nodes.count)),
    front=unless_void(front, state.front),
    path=write_path(draft.path, state.read + last, front, goes),
    lanes=unless_void(lanes, state.lanes),
    settled=jnp.where(running & ~overflow, count, state.settled),
    ending=jnp.where((length > 0) & ~overflow, -jnp.inf, state.ending),
    text=text,
    read=unless_void(state.read + more, state.read),
    length=unless_void(length, state.length),
    logprob=logprob,
    guard=jnp.where(goes & ~overflow, guard, state.guard),
    status=unless_void(status, state.status),
    kept=state.kept + jnp.where(running & ~overflow, lost, 0.0),
    calls=state.calls + (tree.some.any(1) & ~overflow),
    peak=jnp.maximum(state.peak, jnp.where(running, in_use, 0)),
    crowded=state.crowded | overflow | short,
  )


def _pick(values, index):
  """`values[b, index[b, ...]]`."""
  return jax.vmap(lambda values, index: values[index])(values, index)


def _complete(request, guard):
  """Whether nothing may follow but the end, `bool[B]`."""
  if request.constraint is None:
    return jnp.zeros(guard.shape, bool)
  return jax.vmap(functools.partial(constraints.complete, request.constraint))(
    guard
  )


def _prune(
  limits, least, draft, tree, settled, read, terms, before, fresh, new
):  # fmt: skip
  """Weights of one text's new nodes, -inf where they begin too light.

  A node's weight when it begins is its share of what is kept of the text.

  Returns:
    `weight[T]`, and the share `[D + 1]` that is left out at each byte.
  """
  node = settled + jnp.arange(limits.tree, dtype=jnp.int32)
  born = jnp.where(tree.there, draft.nodes.end[node] - read, NONE)
  inner = draft.nodes.parent[node] - settled

  def step(at, carry):
    weight, shed = carry
    lanes = jnp.where(fresh[at], weight[new[at]], before[at])
    byte = draft.byte[jnp.minimum(at, limits.ahead - 1)]
    total = logsumexp(lanes + terms[at, :, byte], 0)
    # A node's parent ends before it, so it has been judged.
    orphan = (inner >= 0) & jnp.isneginf(weight[inner])
    now = born == at + 1
    weight = jnp.where(now & orphan, -jnp.inf, weight)
    share = jnp.where(now, weight - total, -jnp.inf)
    light = now & ((share < least) | draft.silent)
    shed = shed.at[at].set(jnp.where(light, jnp.exp(share), 0.0).sum())
    return jnp.where(light, -jnp.inf, weight), shed

  shed = jnp.zeros(limits.ahead + 1)
  return jax.lax.fori_loop(0, draft.size, step, (tree.weight, shed))


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


def _write(state, drawn, logprobs):
  """Writes all drawn bytes; what is too much is written over later."""
  batch, steps = drawn.shape
  each = jnp.arange(batch)[:, None]
  at = jnp.arange(steps)[None]
  running = (state.status == RUNNING)[:, None]
  place = state.read[:, None] + at
  place = jnp.where(running & (drawn != EOS), place, state.text.shape[1])
  value = jnp.take_along_axis(logprobs, drawn[:, :, None], axis=2)[:, :, 0]
  text = state.text.at[each, place].set(drawn.astype(jnp.uint8), mode="drop")
  place = state.length[:, None] + at
  place = jnp.where(running, place, state.logprob.shape[1])
  return text, state.logprob.at[each, place].set(value, mode="drop")


def _stops(stops, text, read, length, steps):
  """Whether a stop string ends at each drawn byte, `bool[B, D + 1]`."""
  wanted, size = stops
  count, longest = wanted.shape
  if not count:
    return jnp.zeros((len(text), steps), bool)
  back = jnp.arange(longest) - longest + 1
  ahead = jnp.arange(steps)[:, None] + back[None]
  at = read[:, None, None] + ahead[None]
  found = jax.vmap(lambda text, at: text[at])(text, jnp.maximum(at, 0))
  # The prompt's bytes do not count.
  inside = length[:, None, None] + ahead[None] >= 0
  needed = back[None, :] > -size[:, None]
  same = (found[:, :, None] == wanted[None, None]) & inside[:, :, None]
  return (same | ~needed[None, None]).all(3).any(2)
