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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from byteprob import covers
from byteprob.covers import NONE
from byteprob.numerics import logsumexp
from byteprob.sampling import draft as drafts
from byteprob.sampling import tree as trees
from byteprob.sampling.controls import Controls
from byteprob.sampling.state import (
  CONTEXT,
  ENDED,
  FULL,
  IMPOSSIBLE,
  RUNNING,
  STOPPED,
  Lanes,
  Limits,
  State,
  draw,
  lane_of,
  next_bytes,
  with_ending,
  write_path,
)
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Extend, Params


@functools.partial(
  jax.jit, static_argnames=("extend", "limits"), donate_argnames="state"
)
def run(
  extend: Extend,
  limits: Limits,
  tables: Tables,
  params: Params,
  controls: Controls,
  stops: tuple[Array, Array],
  state: State,
  rounds: Int[Array, ""],
) -> State:
  """Runs rounds until all texts have stopped, or something does not fit.

  Args:
    extend: the model.
    limits: what the state was made with.
    tables: the tokenizer.
    params: the model's parameters.
    controls: how bytes are drawn.
    stops: `uint8[K, L]` stop strings, padded on the left, and `int32[K]`
      their lengths.
    state: the texts; donated.
    rounds: at most so many rounds.
  """

  def go_on(carry):
    state, left = carry
    return (state.status == RUNNING).any() & ~state.crowded & (left > 0)

  def body(carry):
    state, left = carry
    draft = drafts.draft_bytes(limits, tables, controls, state)
    tree = trees.plant(limits, tables, state, draft)
    cache, rows = trees.evaluate(
      extend, limits, tables, params, state, draft, tree
    )
    tree = trees.weigh(limits, tables, state, draft, tree, rows)
    state = state._replace(cache=cache, rows=rows)
    state = _commit(limits, tables, controls, stops, state, draft, tree)
    return state, left - 1

  return jax.lax.while_loop(go_on, body, (state, rounds))[0]


def _commit(limits, tables, controls, stops, state, draft, tree) -> State:
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

  def pick(values, index):
    return jax.vmap(lambda values, index: values[index])(values, index)

  weight = jnp.where(
    fresh, pick(tree.weight, new), pick(state.lanes.weight, old)
  )
  weight = jnp.where(there, weight, -jnp.inf)
  row = jnp.where(fresh, pick(tree.row, new), pick(state.lanes.row, old))
  asked = jnp.where(
    fresh & (jnp.arange(steps)[None] <= draft.size[:, None])[:, :, None],
    row,
    NONE,
  )
  terms = next_bytes(limits, tables, state.rows, asked, draft.place)
  terms = jnp.where(fresh[..., None], terms, draft.terms)
  total = logsumexp(weight[..., None] + terms, 2)
  total = total.at[:, 0].set(
    with_ending(state, total[:, 0], jnp.zeros(batch, jnp.int32))
  )
  norm = logsumexp(total, 2)
  logprobs = total - norm[:, :, None]
  at = jnp.broadcast_to(jnp.arange(steps)[None], (batch, steps))
  drawn = jax.vmap(
    lambda at, logprobs: draw(controls, state, at, logprobs),
    in_axes=1,
    out_axes=1,
  )(at, logprobs)

  # The first that differs from the draft, or ends something, is the last.
  drafted = jnp.concatenate(
    [draft.byte, jnp.full((batch, 1), NONE, jnp.int32)], axis=1
  )
  agrees = (drawn == drafted) & (at < draft.size[:, None])
  text, logprob = _write(state, drawn, logprobs)
  stopping = _stops(stops, text, state.length, steps)
  halts = stopping | ~agrees
  last = halts.argmax(1)
  byte = drawn[each, last]
  ended = byte == EOS
  impossible = jnp.isneginf(norm[each, last]) | jnp.isnan(norm[each, last])
  length = state.length + last + ~(ended | impossible)

  # The last byte's nodes are born, to be evaluated in the next round.
  count = draft.count[each, last]
  before = covers.Front(
    node=draft.node[each, last],
    place=draft.place[each, last],
    overflow=jnp.zeros(batch, bool),
  )
  goes = running & ~ended & ~impossible
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(draft.nodes._replace(count=count), before, byte, goes)
  lanes = jax.vmap(functools.partial(_lanes, limits))(
    nodes,
    front,
    before.node,
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
  deepest = state.offset + jnp.where(
    front.node == NONE, 0, jnp.take_along_axis(nodes.depth, front.node, axis=1)
  ).max(1)
  status = jnp.select(
    [
      ~running,
      impossible,
      ended,
      stopping[each, last],
      length >= state.limit,
      deepest + limits.tree >= limits.context_length,
    ],
    [state.status, IMPOSSIBLE, ENDED, STOPPED, FULL, CONTEXT],
    RUNNING,
  ).astype(jnp.int32)
  # What does not fit is done again, with more room; a lack of slots can be
  # seen coming.
  overflow = (goes & (status == RUNNING) & front.overflow).any()
  live = _in_use(front, lanes)
  short = (running & (live + 2 * limits.tree > limits.slots)).any()
  in_use = _in_use(state.front, state.lanes) + tree.some.sum(1)
  after = State(
    nodes=nodes,
    front=front,
    path=write_path(draft.path, state.read + last, front, goes),
    lanes=lanes,
    settled=jnp.where(running, count, state.settled),
    offset=state.offset,
    read=state.read + jnp.where(goes, last + 1, 0),
    rows=None,
    cache=None,
    ending=jnp.where(length > 0, -jnp.inf, state.ending),
    text=text,
    logprob=logprob,
    length=jnp.where(running, length, state.length),
    limit=state.limit,
    key=state.key,
    status=status,
    calls=state.calls + tree.some.any(1),
    peak=jnp.maximum(state.peak, jnp.where(running, in_use, 0)),
    crowded=short,
  )
  before = state._replace(rows=None, cache=None, crowded=jnp.bool_(True))
  after = jax.tree.map(
    lambda old, new: jnp.where(overflow, old, new), before, after
  )
  return after._replace(rows=state.rows, cache=state.cache)


def _in_use(front, lanes):
  """How many slots the live starts and their ancestors take."""
  live = (front.node != NONE)[:, :, None]
  return (lanes.attends & live).any(1).sum(1)


def _lanes(
  limits, nodes, front, before, count, settled, lanes, tree, weight, row, old,
  grown, token,
) -> Lanes:  # fmt: skip
  """What is known of the live starts after the committed bytes."""
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
  return Lanes(
    weight=jnp.where(there, weight, -jnp.inf),
    row=jnp.where(there & ~newborn, row[lane], NONE),
    attends=attends & there[:, None],
  )


def _write(state, drawn, logprobs):
  """Writes all drawn bytes; what is too much is written over later."""
  batch, steps = drawn.shape
  each = jnp.arange(batch)[:, None]
  at = state.length[:, None] + jnp.arange(steps)[None]
  running = (state.status == RUNNING)[:, None]
  place = jnp.where(running & (drawn != EOS), at, state.text.shape[1])
  value = jnp.take_along_axis(logprobs, drawn[:, :, None], axis=2)[:, :, 0]
  text = state.text.at[each, place].set(drawn.astype(jnp.uint8), mode="drop")
  place = jnp.where(running, at, state.logprob.shape[1])
  return text, state.logprob.at[each, place].set(value, mode="drop")


def _stops(stops, text, length, steps):
  """Whether a stop string ends at each drawn byte, `bool[B, D + 1]`."""
  wanted, size = stops
  count, longest = wanted.shape
  if not count:
    return jnp.zeros((len(text), steps), bool)
  back = jnp.arange(longest) - longest + 1
  at = length[:, None, None] + jnp.arange(steps)[None, :, None]
  at = at + back[None, None]
  found = jax.vmap(lambda text, at: text[at])(text, jnp.maximum(at, 0))
  inside = (at >= 0)[:, :, None]
  needed = back[None, :] > -size[:, None]
  same = (found[:, :, None] == wanted[None, None]) & inside
  return (same | ~needed[None, None]).all(3).any(2)
