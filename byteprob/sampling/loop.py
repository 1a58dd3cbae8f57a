"""Device: the sampler's loop, many bytes a model call.

Between two model calls all that is known of the text's nodes is the *front*:
the live starts, each with its weight, its row of token log-probs and the
cache slots that it attends to. A round drafts bytes from the rows that are
there (new nodes are born, unevaluated), evaluates all new nodes in one call,
draws the same bytes again from the exact distributions with the same random
numbers, and commits those that agree and the first that does not. So every
committed byte is drawn from its exact distribution, whatever was drafted.

There may be several models, each with a tokenizer and a front of its own: the
bytes are drawn from what they say together (`pooling`), drafted or exact.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303); drafting with
common random numbers is ours.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from byteprob import constraints, pooling
from byteprob.covers import NONE
from byteprob.numerics import normalized
from byteprob.sampling import draft as drafts
from byteprob.sampling import tree as trees
from byteprob.sampling.settle import see, settle
from byteprob.sampling.state import (
  COMPLETE,
  CONTEXT,
  ENDED,
  FULL,
  IMPOSSIBLE,
  RUNNING,
  STOPPED,
  Given,
  Request,
  Setup,
  Source,
  State,
  draw,
  guard_after,
  possible,
)
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Params


@functools.partial(
  jax.jit,
  static_argnames=("setup", "source"),
  donate_argnames="state",
)
def run(
  setup: Setup,
  source: Source | None,
  tables: tuple[Tables, ...],
  params: tuple[Params, ...],
  request: Request,
  given: Any,
  state: State,
  rounds: Int[Array, ""],
) -> tuple[State, Int[Array, ""]]:
  """Runs rounds until all texts have stopped, or something does not fit.

  Args:
    setup: the models, and what the state was made with.
    source: where drafts come from beside the rows, or None.
    tables: the models' tokenizers.
    params: the models' parameters.
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
    state = go_round(setup, tables, params, request, state, propose=propose)
    return state, left - 1

  return jax.lax.while_loop(go_on, body, (state, rounds))


def go_round(
  setup: Setup,
  tables: tuple[Tables, ...],
  params: tuple[Params, ...],
  request: Request,
  state: State,
  *,
  propose: Any = None,
  forced: Given | None = None,
) -> State:
  """One round: a draft, a call of each model, what is kept of it, a byte.

  Args:
    setup, tables, params, request, state: see `run`.
    propose: `Source.propose`, but for its first arguments; or None.
    forced: bytes that the texts go on with whatever their probabilities; the
      round may stop before their end.
  """
  draft = drafts.draft_bytes(setup, tables, request, state, forced)
  memory = state.memory
  if propose is not None:
    memory, proposed = propose(memory, state, draft)
    draft = drafts.draft_more(setup, tables, request, state, draft, proposed)
  running = state.status == RUNNING
  members, grown = [], []
  for limits, table, param, member, part in zip(
    setup.members, tables, params, state.members, draft.parts, strict=True
  ):
    tree = trees.plant(limits, running, member, part)
    cache, rows = trees.evaluate(limits, table, param, member, part, tree)
    grown.append(trees.weigh(limits, member, part, tree, rows))
    members.append(member._replace(cache=cache, rows=rows))
  state = state._replace(members=tuple(members), memory=memory)
  return _commit(setup, tables, request, forced, state, draft, grown)


def _commit(setup, tables, request, forced, state, draft, grown) -> State:
  """Draws again from what is exact now, and keeps what agrees."""
  batch = len(state.length)
  steps = setup.ahead + 1
  each = jnp.arange(batch)
  running = state.status == RUNNING
  at = jnp.broadcast_to(jnp.arange(steps)[None], (batch, steps))
  every = list(
    zip(setup.members, tables, state.members, draft.parts, strict=True)
  )
  seen = [
    see(*one, request, state.length == 0, draft, tree)
    for one, tree in zip(every, grown, strict=True)
  ]
  rows = pooling.tempered(setup.pool, [normalized(one.total) for one in seen])
  before = rows[:, : setup.ahead]
  share = pooling.shares(setup.pool, state.share, before, draft.byte)
  logprobs = pooling.pooled(setup.pool, rows, share)
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
  goes = running & ~ended & ~impossible
  after = [
    settle(*one, request, told, last, byte, running, goes)
    for one, told in zip(every, seen, strict=True)
  ]
  full = [
    new.deepest + limits.tree >= limits.context_length
    for new, limits in zip(after, setup.members, strict=True)
  ]
  status = jnp.select(
    [
      ~running,
      impossible,
      ended,
      stopping[each, last],
      _complete(request, guard),
      length >= state.limit,
      functools.reduce(operator.or_, full),
    ],
    [state.status, IMPOSSIBLE, ENDED, STOPPED, COMPLETE, FULL, CONTEXT],
    RUNNING,
  ).astype(jnp.int32)
  # What does not fit is done again, with more room; a lack of slots can be
  # seen coming.
  going_on = goes & (status == RUNNING)
  overflow = functools.reduce(
    operator.or_, [(going_on & new.overflow).any() for new in after]
  )
  short = functools.reduce(
    operator.or_, [(running & new.short).any() for new in after]
  )
  calls = sum(tree.some.any(1).astype(jnp.int32) for tree in grown)

  def unless_void(new, old):
    return jax.tree.map(
      lambda new, old: jnp.where(overflow, old, new), new, old
    )

  share = pooling.shares(
    setup.pool, share[each, last], rows[each, last][:, None], byte[:, None]
  )[:, 1]
  share = jnp.where(goes[:, None], share, state.share)
  # Whatever lies past the counts is written over later.
  return state._replace(
    members=tuple(
      _settled(member, new, running, more, length, overflow, unless_void)
      for member, new in zip(state.members, after, strict=True)
    ),
    share=unless_void(share, state.share),
    text=text,
    read=unless_void(state.read + more, state.read),
    length=unless_void(length, state.length),
    logprob=logprob,
    guard=jnp.where(goes & ~overflow, guard, state.guard),
    status=unless_void(status, state.status),
    calls=state.calls + jnp.where(overflow, 0, calls),
    crowded=state.crowded | overflow | short,
    overflow=state.overflow | overflow,
  )


def _settled(member, new, running, more, length, overflow, unless_void):
  """A model's knowledge after a round; as before it if the round is void."""
  return member._replace(
    nodes=new.nodes._replace(
      count=unless_void(new.nodes.count, member.nodes.count)
    ),
    front=unless_void(new.front, member.front),
    path=new.path,
    lanes=unless_void(new.lanes, member.lanes),
    settled=jnp.where(running & ~overflow, new.count, member.settled),
    ending=jnp.where((length > 0) & ~overflow, -jnp.inf, member.ending),
    read=unless_void(member.read + more, member.read),
    kept=member.kept + jnp.where(running & ~overflow, new.lost, 0.0),
    peak=jnp.maximum(member.peak, jnp.where(running, new.in_use, 0)),
  )


def _complete(request, guard):
  """Whether nothing may follow but the end, `bool[B]`."""
  if request.constraint is None:
    return jnp.zeros(guard.shape, bool)
  return jax.vmap(functools.partial(constraints.complete, request.constraint))(
    guard
  )


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
