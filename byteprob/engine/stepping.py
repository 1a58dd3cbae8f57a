"""Device: texts of one model, whose next bytes are known exactly.

Every function is pure, takes and gives arrays whose first axis is the batch,
and raises nothing: where there is too little room a text stands still, says so
in `TextState.needs`, and its log-probs are no numbers.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt32

from byteprob.engine import reading
from byteprob.engine import state as states
from byteprob.engine.advance import advance
from byteprob.engine.batch import not_numbers
from byteprob.engine.config import EngineConfig
from byteprob.engine.evaluate import evaluate, heaviest, known_logprobs
from byteprob.engine.generate import RUNNING, Given, LoopConfig, State
from byteprob.engine.generate import generate as run
from byteprob.engine.grow import grow, grown
from byteprob.engine.loops import repeat
from byteprob.engine.needs import Needs, flag
from byteprob.engine.request import DecodeRequest
from byteprob.engine.state import MemberState, unpack, used_slots, waiting
from byteprob.errors import PromptError
from byteprob.numerics import logsumexp, normalized
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Params


class TextState(NamedTuple):
  """Texts so far.

  Attributes:
    member: what the model knows of them.
    next: `float32[B, 257]` see `next_logprobs`.
    scale: `float32[B]` log of what the next symbols had together before they
      were normalized.
    needs: `int32[B]` what each lacks, a sum of `Needs`; 0 for nothing.
  """

  member: MemberState
  next: Float[Array, "B 257"]
  scale: Float[Array, " B"]
  needs: Int[Array, " B"]


class Reading(NamedTuple):
  """Results of reading bytes.

  Attributes:
    logprob: `float32[B, n]` log-prob of each byte given those before it; 0
      after a text's end; NaN where it was not read.
    taken: `int32[B]` bytes read.
  """

  logprob: Float[Array, "B n"]
  taken: Int[Array, " B"]


class Drawn(NamedTuple):
  """Results of drawing bytes.

  Attributes:
    byte: `uint8[B, n]` the bytes.
    logprob: `float32[B, n]` log-prob of each, and of the end: exact if the
      request is, else a lower bound.
    count: `int32[B]` how many bytes.
    status: `int32[B]` why it has stopped; see `generate`.
    calls: `int32[B]` model calls.
  """

  byte: UInt8[Array, "B n"]
  logprob: Float[Array, "B n"]
  count: Int[Array, " B"]
  status: Int[Array, " B"]
  calls: Int[Array, " B"]


def init(
  config: EngineConfig,
  tables: Tables,
  batch: int,
  start: Int[Array, " B"] | None = None,
  root_id: Int[Array, " B"] | None = None,
) -> TextState:
  """Empty texts; `read` or `settle` is next.

  Args:
    config: the sizes; from `EngineConfig.of`.
    tables: the tokenizer.
    batch: how many.
    start: the automaton's state where each starts. Default: `Tables.start`.
    root_id: model id of the token before each. Default: what the tokenizer
      puts there.

  Raises:
    ValueError: there is no default, or the config has no `init_cache`.
  """
  if config.init_cache is None:
    raise ValueError("The config has no init_cache; make it by EngineConfig.of")
  if start is None:
    start = np.full(batch, tables.start, np.int32)
  if root_id is None:
    if len(tables.info.start_ids) != 1:
      raise ValueError("root_id is needed: no one token comes before a text")
    root_id = np.full(batch, tables.info.start_ids[0], np.int32)
  member = states.init(config, config.init_cache, tables, start, root_id)
  return TextState(
    member=member,
    next=jnp.full((batch, 257), jnp.nan),
    scale=jnp.zeros((batch,)),
    needs=jnp.zeros((batch,), jnp.int32),
  )


def read(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  state: TextState,
  text: UInt8[Array, "B n"],
  length: Int[Array, " B"],
) -> tuple[TextState, Reading]:
  """Goes on with given bytes, many at a model call.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    state: the texts so far.
    text: bytes, padded.
    length: how many there are of each.
  """
  text, length = jnp.asarray(text), jnp.asarray(length)
  going = state.needs == 0
  wanted = jnp.where(going, length, 0)
  need = jnp.int32(reading.ALL)
  member, found = reading.read(
    config, tables, params, state.member, text, wanted, need
  )
  flags = flag(found.slots, Needs.SLOTS) | flag(found.late, Needs.CONTEXT)
  lost = found.overflow & (found.taken < wanted)
  flags |= flag(lost, Needs.FRONTIER)
  flags |= flag((found.taken < wanted) & (flags == 0), Needs.BYTES)
  needs = state.needs | jnp.where(going, flags, 0)
  at = jnp.arange(text.shape[1], dtype=jnp.int32)[None]
  logprob = found.logprob
  if not config.trust_model and text.shape[1]:
    logprob = logprob.at[:, 0].add(-state.scale)
  logprob = jnp.where(at < found.taken[:, None], logprob, jnp.nan)
  logprob = jnp.where(at < length[:, None], logprob, 0.0)
  return _known(config, tables, member, needs), Reading(logprob, found.taken)


def next_logprobs(state: TextState) -> Float[Array, "B 257"]:
  """Log-probs of each text's next byte and, at index 256, of its end.

  They are exact. NaN where they are not known: the text lacks something, or
  nothing has been read yet.
  """
  return state.next


def step(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  state: TextState,
  byte: Int[Array, " B"],
) -> TextState:
  """Goes on with one byte; the model is called for nodes that end there.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    state: the texts so far.
    byte: the bytes; a text stays as it is at 256.
  """
  byte = jnp.asarray(byte, jnp.int32)
  going = (state.needs == 0) & (byte >= 0) & (byte < EOS)
  inside = jnp.clip(byte, 0, EOS - 1)
  own = jnp.take_along_axis(state.next, inside[:, None], 1)[:, 0]
  own = jnp.where(jnp.isnan(own), 0.0, own + state.scale)
  member, overflow = advance(
    config, tables, state.member, inside, own, jnp.float32(0), going
  )
  needs = state.needs | flag(overflow, Needs.FRONTIER)
  return _settle(config, tables, params, member, needs)


def settle(
  config: EngineConfig, tables: Tables, params: Params, state: TextState
) -> TextState:
  """Calls the model until the next bytes are known; reads nothing.

  It is needed after `init`, `generate` and `enlarge`.
  """
  return _settle(config, tables, params, state.member, state.needs)


def _settle(config, tables, params, member, needs) -> TextState:
  steps = config.max_frontier
  if config.differentiable:
    steps = min(config.max_new_nodes, steps)

  def open_(member, needs):
    return waiting(member).any(1) & (needs == 0)

  def body(carry):
    member, needs = carry
    wanted = open_(member, needs)
    entry = heaviest(member)
    each = jnp.arange(len(entry))
    position = member.offset + member.frontier.depth[each, entry]
    late = wanted & (position >= config.context_length)
    full = wanted & ~late & unpack(used_slots(member)).all(1)
    needs |= flag(late, Needs.CONTEXT) | flag(full, Needs.SLOTS)
    wanted &= ~late & ~full
    return evaluate(config, tables, params, member, entry, wanted), needs

  member, needs = repeat(
    config.differentiable,
    steps,
    lambda carry: open_(*carry).any(),
    body,
    (member, needs),
  )
  needs |= flag(open_(member, needs), Needs.NODES)
  return _known(config, tables, member, needs)


def _known(config, tables, member, needs) -> TextState:
  """The state, with what is known of the next bytes."""
  everyone = jnp.ones(needs.shape, bool)
  known = known_logprobs(tables, member, everyone, fixed=config.differentiable)
  scale = logsumexp(known, 1)
  scale = jnp.where(jnp.isneginf(scale), 0.0, scale)
  sure = (needs == 0) & ~waiting(member).any(1)
  return TextState(
    member=member,
    next=jnp.where(sure[:, None], normalized(known), jnp.nan),
    scale=jnp.where(sure, scale, 0.0),
    needs=needs,
  )


def generate(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  state: TextState,
  request: DecodeRequest,
  key: UInt32[Array, "B D"],
  limit: Int[Array, " B"],
  size: int,
  *,
  key_impl: str = "threefry2x32",
) -> tuple[TextState, Drawn]:
  """Draws bytes; the model is called only where a draw depends on it.

  No gradient passes. Where something has to grow, all texts stop.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    state: the texts so far.
    request: how bytes are drawn; see `request_of`.
    key: `jax.random.key_data` of a key for each text.
    limit: bytes of each at most.
    size: static; bytes that there is room for.
    key_impl: static; kind of the keys (`jax.random.key_impl`).
  """
  batch = len(limit)
  zero = jnp.zeros((batch,), jnp.int32)
  start = State(
    members=(state.member,),
    log_weights=jnp.zeros((batch, 1)),
    output=jnp.zeros((batch, size), jnp.uint8),
    logprob=jnp.zeros((batch, size)),
    count=zero,
    recent=jnp.zeros((batch, request.stops.shape[1]), jnp.uint8),
    length=zero,
    limit=jnp.where(state.needs == 0, jnp.minimum(limit, size), 0),
    taken=zero,
    key=key,
    dfa_state=zero,
    status=jnp.full((batch,), RUNNING, jnp.int32),
    calls=zero,
    needs=jnp.int32(0),
  )
  loop = LoopConfig(members=(config,), key_impl=key_impl)
  nothing = Given(jnp.zeros((batch, 1), jnp.uint8), zero)
  rounds = jnp.int32(2**30)
  end, _ = run(loop, (tables,), (params,), request, nothing, start, rounds)
  unfinished = (end.status == RUNNING) & (end.length < end.limit)
  needs = state.needs | jnp.where(unfinished, end.needs, 0)
  drawn = Drawn(end.output, end.logprob, end.count, end.status, end.calls)
  return _known(config, tables, end.members[0], needs), drawn


def larger(config: EngineConfig, needs: int) -> EngineConfig:
  """On the host: a config with room for what has been lacking.

  Args:
    config: the sizes so far.
    needs: a sum of `Needs`.

  Raises:
    PromptError: a text is longer than the model's context, or the model's
      logits are not numbers.
  """
  if needs & Needs.CONTEXT:
    raise PromptError(
      "A text needs more tokens than the model's context has"
      f" ({config.context_length}); shorten it."
    )
  if needs & Needs.NUMBERS:
    raise not_numbers()
  room = needs & (Needs.SLOTS | Needs.FRONTIER)
  config = grown(config, room)
  if needs & Needs.NODES:
    more = 2 * config.max_new_nodes
    config = dataclasses.replace(config, max_new_nodes=more)
  if needs & Needs.BYTES and not room:
    more = 2 * config.chunk_nodes
    config = dataclasses.replace(config, chunk_nodes=more)
  return config


def enlarge(
  config: EngineConfig, state: TextState
) -> tuple[EngineConfig, TextState]:
  """On the host: `larger`, and the texts with that room; nothing is lacking.

  `settle` is next, and then the bytes that have not been read yet
  (`member.num_bytes` tells how many have).
  """
  needs = int(np.bitwise_or.reduce(np.asarray(state.needs).ravel()))
  after = larger(config, needs)
  room = needs & (Needs.SLOTS | Needs.FRONTIER)
  return after, state._replace(
    member=grow(config, room, state.member), needs=jnp.zeros_like(state.needs)
  )
