"""Device: the loop that draws bytes, or reads given ones, exactly.

A text goes on as long as its next byte is certain: it is given, or any
distribution between the bounds of what is known gives the same draw. Where it
is not, the likeliest node that the model has not seen is evaluated, one a text
and model call. So a node is evaluated only when a draw depends on it, which is
about once a token, and every byte is the one that the exact distribution gives
with the same random numbers.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303); deciding from
bounds is ours.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from byteprob import pooling
from byteprob.engine import combine
from byteprob.engine import request as requests
from byteprob.engine.advance import advance
from byteprob.engine.config import EngineConfig
from byteprob.engine.evaluate import (
  evaluate,
  heaviest,
  known_logprobs,
  unevaluated_mass,
)
from byteprob.engine.needs import Needs, flag
from byteprob.engine.request import DecodeRequest
from byteprob.engine.state import MemberState, select, unpack, used_slots
from byteprob.numerics import normalized
from byteprob.pooling import Pool
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Params

(
  RUNNING,
  ENDED,
  FULL,
  STOPPED,
  CONTEXT,
  IMPOSSIBLE,
  COMPLETE,
) = range(7)
"""Why a text goes on or has stopped: it runs; its end was drawn; it has as
many bytes as asked for; a stop string; the model's context is full; no byte
was possible; the constraint lets nothing follow.
"""

_SPARE = 8
"""Frontier entries that a byte should find free: else the model is called, so
that fewer are kept for their children."""

_HEAVY = -0.7
"""Log of the unevaluated mass above which a draw is not worth a try."""

_MINOR = -2.3
"""Log of the share of the unevaluated mass below which a member's call waits
for the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
  """Static arguments of the compiled loop.

  Attributes:
    members: the models.
    pool: how the members are combined; None for one alone.
    key_impl: kind of the random keys (`jax.random.key_impl`).
  """

  members: tuple[EngineConfig, ...]
  pool: Pool | None = None
  key_impl: str = "threefry2x32"


class State(NamedTuple):
  """A batch of texts under way.

  Attributes:
    members: what each model knows of them.
    log_weights: `float32[B, K]` logs of the models' weights (see `pooling`).
    output: `uint8[B, O]` bytes drawn since the host has last taken them.
    logprob: `float32[B, O]` log-prob of each, and of the end: exact with
      `DecodeRequest.exact`, a lower bound else.
    count: `int32[B]` how many are in `output`.
    recent: `uint8[B, L]` the last bytes drawn, at the end of each row.
    length: `int32[B]` bytes drawn.
    limit: `int32[B]` bytes wanted.
    taken: `int32[B]` given bytes read.
    key: `uint32[B, ...]` data of each text's random key.
    dfa_state: `int32[B]` the constraint's state.
    status: `int32[B]` see above.
    calls: `int32[B]` model calls, of all models together.
    needs: `int32[]` what some text lacks, a sum of `Needs`.
  """

  members: tuple[MemberState, ...]
  log_weights: Float[Array, "B K"]
  output: UInt8[Array, "B O"]
  logprob: Float[Array, "B O"]
  count: Int[Array, " B"]
  recent: UInt8[Array, "B L"]
  length: Int[Array, " B"]
  limit: Int[Array, " B"]
  taken: Int[Array, " B"]
  key: UInt32[Array, "B D"]
  dfa_state: Int[Array, " B"]
  status: Int[Array, " B"]
  calls: Int[Array, " B"]
  needs: Int[Array, ""]


class Given(NamedTuple):
  """Bytes that the texts go on with, whatever their probabilities.

  Attributes:
    byte: `uint8[B, F]`.
    length: `int32[B]` how many there are.
  """

  byte: UInt8[Array, "B F"]
  length: Int[Array, " B"]


class _Step(NamedTuple):
  """The inner loop's state: `going` are texts whose next byte may be certain,
  `blocked` those that wait for the model, `rest` what `unevaluated_mass` gives
  of each member.
  """

  state: State
  rest: tuple[Float[Array, " B"], ...]
  going: Bool[Array, " B"]
  blocked: Bool[Array, " B"]


def generate(
  config: LoopConfig,
  tables: tuple[Tables, ...],
  params: tuple[Params, ...],
  request: DecodeRequest,
  given: Given,
  state: State,
  rounds: Int[Array, ""],
) -> tuple[State, Int[Array, ""]]:
  """Reads the given bytes and draws until all texts have stopped.

  It also stops when the output of a text is full, or something has to grow.

  Args:
    config: the models' sizes.
    tables: the models' tokenizers.
    params: the models' parameters.
    request: what is wanted.
    given: bytes to be read first.
    state: the texts.
    rounds: model calls of a text at most.

  Returns:
    The texts, and how many rounds are left.
  """
  step = functools.partial(_step, config, tables, request, given)
  call = functools.partial(_call, config, tables, params)

  def cond(carry):
    _, going, left = carry
    return going & (left > 0)

  def body(carry):
    state, _, left = carry
    rest = _rest(state)
    active = _active(request, given, state, rest)
    start = _Step(state, rest, active, jnp.zeros_like(active))
    state, rest, _, blocked = jax.lax.while_loop(
      lambda one: one.going.any(), step, start
    )
    return call(state, rest, blocked), blocked.any(), left - 1

  carry = state, jnp.bool_(True), rounds
  state, _, left = jax.lax.while_loop(cond, body, carry)
  return state, left


def _rest(state) -> tuple[Float[Array, " B"], ...]:
  return tuple(unevaluated_mass(member) for member in state.members)


def _any(masks):
  return functools.reduce(operator.or_, masks)


def _active(request, given, state, rest) -> Bool[Array, " B"]:
  """Texts that have something left to do here."""
  going = state.status != CONTEXT
  waits = _any([~jnp.isneginf(mass) for mass in rest])
  going &= (
    _reads(given, state) | _draws(given, state) | (request.settle & waits)
  )
  return going & (state.needs == 0)


def _reads(given, state) -> Bool[Array, " B"]:
  """Texts whose next byte is given."""
  return state.taken < given.length


def _draws(given, state) -> Bool[Array, " B"]:
  """Texts whose next byte is to be drawn, and for which there is room."""
  going = (state.status == RUNNING) & (state.length < state.limit)
  going &= state.count < state.output.shape[1]
  return going & ~_reads(given, state)


def _step(config, tables, request, given, step: _Step) -> _Step:
  """One byte of every text whose next byte is certain."""
  state, rest, going, _ = step
  batch = len(going)
  each = jnp.arange(batch)
  known = [
    known_logprobs(table, member, going)
    for table, member in zip(tables, state.members, strict=True)
  ]
  ready = ~_any([~jnp.isneginf(mass) for mass in rest])
  lower, more = combine.bounds(config.pool, state.log_weights, known, rest)
  able = requests.allowed(request, state.dfa_state)
  low = jnp.where(able, lower, -jnp.inf)
  keys = jax.random.wrap_key_data(state.key, impl=config.key_impl)
  lot = jax.vmap(_lot)(keys, state.length)
  symbol, decided = requests.draw(request.warpers, lot, low, more)
  impossible = jnp.isneginf(low).all(1) & jnp.isneginf(more)
  exact = request.exact | (config.pool is not None and config.pool.follows)
  decided = (decided | impossible) & (ready | ~exact)

  reading, drawing = _reads(given, state), _draws(given, state)
  at = jnp.minimum(state.taken, given.byte.shape[1] - 1)
  symbol = jnp.where(reading, given.byte[each, at], symbol).astype(jnp.int32)
  decided = jnp.where(reading, ready | ~exact, decided & drawing)
  crowded = _any([_crowded(member) for member in state.members])
  decided &= ready | ~crowded
  impossible &= drawing
  done = ~reading & ~drawing & (ready | ~request.settle)
  commit = going & decided
  ended = commit & drawing & ~impossible & (symbol == EOS)
  grow = commit & ~ended & ~impossible
  byte = jnp.minimum(symbol, EOS - 1)
  members, overflow = _advance(
    config, tables, request, state.members, byte, known, grow
  )
  ended &= ~overflow
  impossible &= commit & ~overflow
  grow &= ~overflow

  drawn = grow & drawing
  write = jnp.where(drawn | ended, state.count, state.output.shape[1])
  recent = jnp.concatenate(
    [state.recent[:, 1:], byte[:, None].astype(jnp.uint8)], axis=1
  )
  recent = jnp.where(drawn[:, None], recent, state.recent)
  length = state.length + drawn
  dfa_state = jnp.where(
    drawn,
    requests.constraint_step(request, state.dfa_state, symbol),
    state.dfa_state,
  )
  status = jnp.select(
    [
      impossible,
      ended,
      drawn & requests.stopped(request, recent, length),
      drawn & requests.complete(request, dfa_state),
      drawn & (length >= state.limit),
    ],
    [IMPOSSIBLE, ENDED, STOPPED, COMPLETE, FULL],
    state.status,
  ).astype(jnp.int32)
  value = jnp.take_along_axis(normalized(lower), symbol[:, None], 1)[:, 0]
  state = state._replace(
    members=members,
    log_weights=_follow(config.pool, state.log_weights, known, symbol, grow),
    output=state.output.at[each, write].set(
      byte.astype(jnp.uint8), mode="drop"
    ),
    logprob=state.logprob.at[each, write].set(value, mode="drop"),
    count=state.count + drawn,
    recent=recent,
    length=length,
    taken=state.taken + (grow & reading),
    dfa_state=dfa_state,
    status=status,
    needs=state.needs
    | flag(overflow.any(), Needs.FRONTIER)
    # All is known and decides nothing: it is no number.
    | flag((going & ready & ~decided & ~done).any(), Needs.NUMBERS),
  )
  blocked = step.blocked | (going & ~decided & ~done)
  draws = _draws(given, state)
  more = grow & (_reads(given, state) | draws | request.settle)
  rest = _rest(state)
  heavy = _any([mass > _HEAVY for mass in rest])
  # Such a text would only be found to wait in the next step.
  heavy &= more & draws
  return _Step(
    state,
    rest,
    more & ~heavy & (state.needs == 0),
    (blocked | heavy) & (state.needs == 0),
  )


def _advance(config, tables, request, members, byte, known, grow):
  """The members after a byte of some texts, and the texts that did not fit."""
  found, lost = [], []
  at = byte[:, None]
  for size, table, member, logprobs in zip(
    config.members, tables, members, known, strict=True
  ):
    own = jnp.take_along_axis(logprobs, at, 1)[:, 0]
    new, overflow = advance(size, table, member, byte, own, request.eps, grow)
    found.append(new)
    lost.append(overflow)
  overflow = _any(lost)
  if len(found) > 1:
    # Where one has no room, none goes on.
    found = [
      select(~overflow, new, old)
      for new, old in zip(found, members, strict=True)
    ]
  return tuple(found), overflow


def _lot(key, step) -> Float[Array, ""]:
  """The random number of a text's step."""
  return jax.random.uniform(jax.random.fold_in(key, step))


def _crowded(member) -> Bool[Array, " B"]:
  """Whether few frontier entries are free, and a row would free some."""
  there = member.frontier.node != NONE
  kept = there & (member.frontier.trie_node == NONE)
  return (there.sum(1) > there.shape[1] - _SPARE) & kept.any(1)


def _follow(pool, log_weights, known, symbol, grow):
  """The members' weights after a byte."""
  if pool is None or not pool.follows:
    return log_weights
  rows = pooling.apply_temperature(pool, [normalized(one) for one in known])
  after = pooling.shares(pool, log_weights, rows[:, None], symbol[:, None])[
    :, 1
  ]
  return jnp.where(grow[:, None], after, log_weights)


def _call(config, tables, params, state, rest, blocked) -> State:
  """Evaluates the likeliest node that is not, of each text that waits."""
  rest = jnp.stack(rest, 1)
  most = rest.max(1)
  members, calls, needs = [], state.calls, state.needs
  status = state.status
  for k, (size, table, param, member) in enumerate(
    zip(config.members, tables, params, state.members, strict=True)
  ):
    wanted = blocked & (rest[:, k] > most + _MINOR) & ~jnp.isneginf(most)
    entry = heaviest(member)
    each = jnp.arange(len(blocked))
    position = member.offset + member.frontier.depth[each, entry]
    late = wanted & (position >= size.context_length)
    status = jnp.where(late, CONTEXT, status)
    full = wanted & unpack(used_slots(member)).all(1)
    needs |= flag(full.any(), Needs.SLOTS)
    wanted &= ~late & ~full
    call = functools.partial(evaluate, size, table, param)
    member = _once(wanted.any(), call, member, entry, wanted)
    broken = jnp.isnan(member.rows.total[each, entry]) & wanted
    needs |= flag(broken.any(), Needs.NUMBERS)
    members.append(member)
    calls = calls + wanted
  return state._replace(
    members=tuple(members), calls=calls, needs=needs, status=status
  )


def _once(wanted, call, member, *rest):
  """A call that is made if it is wanted.

  A loop that runs once, or not at all: XLA would copy the whole cache into a
  conditional, and out of it.
  """

  def body(carry):
    member, _ = carry
    return call(member, *rest), jnp.bool_(False)

  return jax.lax.while_loop(lambda carry: carry[1], body, (member, wanted))[0]
