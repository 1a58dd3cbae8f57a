"""Device: the loop that draws tokens, one model call each.

A round calls the model on the last token of every text, draws the next one
and goes on. Whatever comes before is the host's: which tokens stand for the
context, and how many of its bytes they have left for the next ones to spell.

It is plain decoding, and as fast: the tokenizer's law and the context's bytes
cost nothing where there are none.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import lemma, token_tree
from byteprob.engine.generate import (
  CONTEXT,
  ENDED,
  FULL,
  IMPOSSIBLE,
  RUNNING,
  STOPPED,
)
from byteprob.engine.request import LogitWarpers
from byteprob.numerics import logsumexp
from byteprob.sampling import tokendraw
from byteprob.sampling import trail as trails
from byteprob.sampling.trail import Spelling
from byteprob.token_tree import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Extend, Params

_SPACE = 0x20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Static arguments of the compiled loop.

  Attributes:
    slots: `S`; a row's slot is its position.
    context_length: see `Model`.
    how: how tokens are drawn.
    capacity: room for nodes, where the trail needs it.
  """

  slots: int
  context_length: int
  how: tokendraw.How
  capacity: token_tree.Capacity | None = None


class State(NamedTuple):
  """A batch of texts under way.

  Attributes:
    cache: the model's; it has all rows before `position`.
    token: `int32[B]` model id of the last token.
    position: `int32[B]` its position.
    trail: what the tokenizer's law knows of the text; None for no law.
    rest: `uint8[B, L]` bytes of the context that no token spells yet, at the
      end of each row.
    left: `int32[B]` how many.
    bare: `bool[B]` a space that comes first is not the text's.
    weight: `float32[B]` log-prob of the tokens so far, given the context;
      counted with the first that is drawn.
    tokens: `int32[B, M]` model ids drawn.
    logprob: `float32[B, M]` their log-probs, and the end's.
    count: `int32[B]` how many.
    text: `uint8[B, K]` bytes drawn, where stop strings ask for them.
    length: `int32[B]` how many.
    limit: `int32[B]` how many are wanted.
    key: `key[B]` of each text; step 0 is the host's.
    status: `int32[B]` as of `state.State`.
    crowded: `bool[]` the trail did not fit; the last round was not committed.
  """

  cache: Cache
  token: Int[Array, " B"]
  position: Int[Array, " B"]
  trail: trails.Trail | None
  rest: UInt8[Array, "B L"]
  left: Int[Array, " B"]
  bare: Bool[Array, " B"]
  weight: Float[Array, " B"]
  tokens: Int[Array, "B M"]
  logprob: Float[Array, "B M"]
  count: Int[Array, " B"]
  text: UInt8[Array, "B K"]
  length: Int[Array, " B"]
  limit: Int[Array, " B"]
  key: jax.Array
  status: Int[Array, " B"]
  crowded: Bool[Array, ""]


def full(limits: Limits, state: State) -> Bool[Array, ""]:
  """Whether a text must go on and has no slot for its next row."""
  return ((state.status == RUNNING) & (state.position >= limits.slots)).any()


@functools.partial(
  jax.jit, static_argnames=("extend", "limits"), donate_argnames="state"
)
def run(
  extend: Extend,
  limits: Limits,
  tables: Tables,
  params: Params,
  spelling: Spelling,
  controls: LogitWarpers,
  stops: tuple[Array, Array],
  state: State,
) -> State:
  """Draws tokens until all texts have stopped, or something does not fit.

  Args:
    extend: the model.
    limits: what the state was made with.
    tables: the tokenizer.
    params: the model's parameters.
    spelling: bytes of the tokens.
    controls: how tokens are drawn.
    stops: `uint8[K, L]` stop strings, padded on the left, and `int32[K]`
      their lengths.
    state: the texts; donated.
  """

  def go_on(state):
    running = (state.status == RUNNING).any()
    return running & ~state.crowded & ~full(limits, state)

  def body(state):
    slot = jnp.arange(limits.slots, dtype=jnp.int32)
    position = state.position[:, None]
    attends = slot[None, None] <= position[:, :, None]
    logits, cache = extend(
      params, state.cache, state.token[:, None], position, position, attends
    )
    state = state._replace(cache=cache)
    values = _logprobs(tables, spelling, state, logits[:, 0])
    scores = jax.lax.cond(
      ((state.status == RUNNING) & (state.left > 0)).any(),
      functools.partial(tokendraw.restrict, limits.how, tables, spelling),
      lambda rest, left, values: values,
      *(state.rest, state.left, values),
    )
    token = tokendraw.draw(
      limits.how, controls, state.key, state.count + 1, scores
    )
    value, score = (
      jnp.take_along_axis(rows, token[:, None], axis=1)[:, 0]
      for rows in (values, scores)
    )
    possible = ~(jnp.isneginf(score) | jnp.isnan(score))
    return _commit(
      limits, tables, spelling, stops, state, token, value, possible
    )

  return jax.lax.while_loop(go_on, body, state)


def _logprobs(tables, spelling, state, logits) -> Float[Array, "B V"]:
  """Log-probs of tokens by model id; the first end id stands for all."""
  logits = logits.astype(jnp.float32)
  ends = tables.end_ids
  known = (spelling.place != NONE)[None]
  eos = logsumexp(logits[:, ends], 1)
  if state.trail is None:
    allowed, norm = known, logsumexp(logits, 1)
  else:
    allowed, may_end = lemma.mask(tables, trails.standing(tables, state.trail))
    allowed = allowed[:, spelling.place] & known
    eos = jnp.where(may_end, eos, -jnp.inf)
  values = jnp.where(allowed, logits, -jnp.inf)
  if len(ends):
    first = jnp.arange(values.shape[1], dtype=jnp.int32) == ends[0]
    values = jnp.where(first[None], eos[:, None], values)
  if state.trail is not None:
    norm = logsumexp(values, 1)
  return values - norm[:, None]


def _commit(
  limits, tables, spelling, stops, state, token, value, possible
) -> State:
  """Writes the tokens that were drawn."""
  each = jnp.arange(len(token))
  running = state.status == RUNNING
  place = spelling.place[token]
  ended = place == NONE
  goes = running & possible & ~ended
  place = jnp.where(goes, place, NONE)
  crowded, trail = jnp.bool_(False), state.trail
  if trail is not None:
    trail, crowded = trails.follow(
      tables, limits.capacity, spelling, trail, place, state.left
    )
  running &= ~crowded
  goes &= ~crowded
  size = jnp.where(goes, tables.length[place], 0)
  spaced = state.bare & (spelling.text[spelling.begin[place]] == _SPACE)
  known = jnp.minimum(jnp.where(spaced, 1, state.left), size)
  length = state.length + size - known
  text = _write(tables, spelling, state, place, known, size)
  stop = _first_stop(stops, text, state.length, length, tables.longest)
  status = jnp.select(
    [
      ~running,
      ~possible,
      ended,
      stop <= state.limit,
      length >= state.limit,
      state.position + 1 >= limits.context_length,
    ],
    [state.status, IMPOSSIBLE, ENDED, STOPPED, FULL, CONTEXT],
    RUNNING,
  ).astype(jnp.int32)
  first = jnp.where(state.count == 0, state.weight, 0.0)
  at = jnp.where(running & possible, state.count, state.tokens.shape[1])
  return State(
    cache=state.cache,
    token=jnp.where(goes, token, state.token),
    position=state.position + goes,
    trail=trail,
    rest=state.rest,
    left=state.left - jnp.minimum(state.left, size),
    bare=state.bare & ~goes,
    weight=state.weight,
    tokens=state.tokens.at[each, at].set(token, mode="drop"),
    logprob=state.logprob.at[each, at].set(first + value, mode="drop"),
    count=state.count + goes,
    text=text,
    length=jnp.minimum(jnp.minimum(length, stop), state.limit),
    limit=state.limit,
    key=state.key,
    status=status,
    crowded=crowded,
  )


def _write(tables, spelling, state, place, known, size):
  """Writes the bytes of the tokens, where anyone reads them."""
  room = state.text.shape[1]
  if not room:
    return state.text
  offset = jnp.arange(tables.longest, dtype=jnp.int32)[None]
  byte = spelling.text[spelling.begin[place][:, None] + offset]
  fresh = (offset >= known[:, None]) & (offset < size[:, None])
  at = (state.length - known)[:, None] + offset
  each = jnp.arange(len(place))[:, None]
  at = jnp.where(fresh, at, room)
  return state.text.at[each, at].set(byte, mode="drop")


def _first_stop(stops, text, before, after, most) -> Int[Array, " B"]:
  """Where the first stop string ends past `before`; large if none does."""
  never = jnp.full_like(after, jnp.iinfo(jnp.int32).max)
  wanted, size = stops
  count, longest = wanted.shape
  if not count:
    return never
  end = before[:, None] + 1 + jnp.arange(most, dtype=jnp.int32)[None]
  back = jnp.arange(longest, dtype=jnp.int32) - longest
  at = end[:, :, None] + back[None, None]
  found = jax.vmap(lambda text, at: text[at])(text, jnp.maximum(at, 0))
  same = (found[:, :, None] == wanted[None, None]) & (at >= 0)[:, :, None]
  padding = back[None] < -size[:, None]
  hit = (same | padding[None, None]).all(3).any(2)
  hit &= end <= after[:, None]
  return jnp.where(hit, end, never[:, None]).min(1)
