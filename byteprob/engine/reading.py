"""Device: reads given bytes, many at a model call.

A chunk's nodes are found first (`chunk`). Then the model sees them, a fixed
number at a call, each attending to its ancestors alone; a call's rows are
reduced to what the text needs of them before the next one. Last, the covers of
every prefix are added up. With `eps`, the nodes that lead on come first; of the
others only those that their parents give enough of the text's probability.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import lemma
from byteprob.engine.chunk import Chunk, assign_slots, grow_chunk, places
from byteprob.engine.config import EngineConfig
from byteprob.engine.frontier import ROOT, live
from byteprob.engine.loops import repeat
from byteprob.engine.state import (
  MemberState,
  flat,
  one_bit,
  unpack,
  used_slots,
)
from byteprob.numerics import add_exactly, logsumexp
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Params

LEAD, ENTRIES, ALL = range(3)
"""Which nodes `read` shows the model: those that lead to the last entries; and
these entries themselves; or all, so that each byte's log-prob is known.
"""


class Reading(NamedTuple):
  """Results of reading texts, beside their states.

  Attributes:
    logprob: `float32[B, n]` log-prob of each byte given those before it, with
      `ALL`; else 0.
    taken: `int32[B]` bytes read; fewer than given if something has to grow.
    slots: `bool[B]` the cache has too few slots.
    overflow: `bool[B]` the frontier is too small.
    late: `bool[B]` the text is longer than the model's context.
    next: `float32[B, n, 257]` next-byte log-probs after each byte; not
      normalized with `trust_model`. None without the flag `along`.
  """

  logprob: Float[Array, "B n"]
  taken: Int[Array, " B"]
  slots: Bool[Array, " B"]
  overflow: Bool[Array, " B"]
  late: Bool[Array, " B"]
  next: Float[Array, "B n 257"] | None


def read(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  member: MemberState,
  text: UInt8[Array, "B n"],
  length: Int[Array, " B"],
  need: Int[Array, ""],
  eps: Float[Array, ""] | float = 0.0,
  *,
  along: bool = False,
) -> tuple[MemberState, Reading]:
  """Reads bytes after those that have been read; teacher forcing.

  Pure: to be jitted, with `config` static and the state donated; with
  `EngineConfig.differentiable` also `jax.grad` by `params` goes through it.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    member: the texts so far.
    text: the bytes, padded.
    length: how many there are in each.
    need: `LEAD`, `ENTRIES` or `ALL`.
    eps: with `ALL`, nodes with a smaller share of the text's probability are
      left out, if nothing after the chunk comes of them. The sum of a chunk's
      log-probs is exact all the same: what is left out are ways to write a
      part of it that no longer are any at its end. Each prefix inside it has a
      lower bound. Ignored where gradients pass.
    along: static; whether `Reading.next` is wanted, with `ALL`.

  Returns:
    The texts with the bytes, and what was found.
  """
  batch, size = text.shape
  start = Reading(
    logprob=jnp.zeros((batch, size)),
    taken=jnp.zeros((batch,), jnp.int32),
    slots=jnp.zeros((batch,), bool),
    overflow=jnp.zeros((batch,), bool),
    late=jnp.zeros((batch,), bool),
    next=jnp.full((batch, size, 257), -jnp.inf) if along else None,
  )

  def cond(carry):
    _, found, first = carry
    stuck = found.slots | found.overflow | found.late
    return (first | (found.taken < length).any()) & ~stuck.any()

  def body(carry):
    member, found, _ = carry
    member, found = _read_chunk(
      config, tables, params, member, text, length, need, eps, found
    )
    return member, found, jnp.bool_(False)

  steps = -(-5 * size // (4 * config.chunk_bytes))
  member, found, _ = repeat(
    config.differentiable,
    steps,
    cond,
    body,
    (member, start, jnp.bool_(True)),
  )
  return member, found


class _Sums(NamedTuple):
  """Sums taken from a chunk's rows, by byte and entry or by logged node.

  Attributes:
    ending: `float32[B, C, W, 257]` log-prob of the tokens that start with the
      bytes from the entry's node up to this byte, and a next byte; None
      without `Reading.next`.
    starts: `float32[B, C, W]` log-prob of the tokens that start with the
      bytes from the entry's node up to this byte.
    beyond: the same of the longer ones among them; None without
      `trust_model`.
    step: `float32[B, N]` log-prob of each node's last token.
    spelled: `float32[B, W + N]` see `lemma.TokenLogProbs.total`.
    ahead: `float32[B, W]` log-prob of the tokens that carry each entry past
      the bytes before the chunk, if its row had been computed; None without
      `trust_model`.
    rows: the last entries' rows.
    cache: the model's.
  """

  ending: Float[Array, "B C W 257"] | None
  starts: Float[Array, "B C W"]
  beyond: Float[Array, "B C W"] | None
  step: Float[Array, "B N"]
  spelled: Float[Array, "B WN"]
  ahead: Float[Array, "B W"] | None
  rows: lemma.TokenLogProbs
  cache: Cache


def _read_chunk(config, tables, params, member, text, length, need, eps, found):
  """One chunk; nothing changes where something has to grow."""
  batch, width = member.evaluated.shape
  each = jnp.arange(batch)[:, None]
  chunk = grow_chunk(config, tables, member, text, found.taken, length)
  taken = found.taken + chunk.taken
  last = taken >= length
  scored = need == ALL
  every = scored if config.differentiable else scored & (eps < 1)
  plan = assign_slots(
    config,
    member,
    chunk,
    jnp.broadcast_to(every, (batch,)),
    last & (need >= ENTRIES),
    scored,
  )
  position = member.offset[:, None] + chunk.log.depth
  late = ((position >= config.context_length) & plan.needed).any(1)
  # Without room for the next byte, what fits is read all the same.
  void = (plan.full | late).any() | (chunk.overflow & (chunk.taken == 0)).any()

  sums, done, weights = _evaluate(
    config, tables, params, member, chunk, plan, need, eps, void, found
  )

  fresh = live(chunk.frontier) & (chunk.row >= width)
  place = jnp.maximum(chunk.row - width, 0)
  seen = jnp.take_along_axis(done, place, 1)
  above = jnp.take_along_axis(plan.attends, place[:, :, None], 1)
  slot = jnp.take_along_axis(plan.slot, place, 1)
  own = one_bit(jnp.where(seen, config.capacity, slot), above.shape[2])
  above &= ~own
  used = unpack(used_slots(member)).sum(1) + plan.needed.sum(1)
  after = member._replace(
    frontier=chunk.frontier,
    num_nodes=member.num_nodes + chunk.log.count,
    num_bytes=member.num_bytes + chunk.taken,
    empty_end=jnp.where(chunk.taken > 0, -jnp.inf, member.empty_end),
    logprob=weights.last,
    evaluated=jnp.where(fresh, seen, member.evaluated) & live(chunk.frontier),
    attends=jnp.where(fresh[:, :, None], above, member.attends),
    peak=jnp.maximum(member.peak, used),
  )

  def choose(new, old):
    return jnp.where(void, old, new)

  # The cache and the rows are as they were where nothing was evaluated.
  large = {"cache": sums.cache, "rows": sums.rows}
  small = dict.fromkeys(large)
  after = jax.tree.map(
    choose, after._replace(**small), member._replace(**small)
  )._replace(**large)
  at = found.taken[:, None] + jnp.arange(config.chunk_bytes)[None]
  here = jnp.arange(config.chunk_bytes)[None] < chunk.taken[:, None]
  at = jnp.where(here & ~void, at, text.shape[1])
  return after, Reading(
    logprob=found.logprob.at[each, at].set(weights.byte, mode="drop"),
    taken=choose(taken, found.taken),
    slots=plan.full,
    overflow=chunk.overflow,
    late=late,
    next=None
    if found.next is None
    else found.next.at[each, at].set(weights.next, mode="drop"),
  )


def _model_ids(tables, member, chunk):
  """Model ids of the logged nodes' tokens."""
  own = tables.token_id[chunk.log.token]
  return jnp.where(chunk.log.node == 0, member.root_id[:, None], own)


def _evaluate(
  config, tables, params, member, chunk, plan, need, eps, void, found
) -> tuple[_Sums, Bool[Array, "B N"], "_Weights"]:
  """Shows the model the needed nodes, and adds up the covers.

  Returns:
    What is kept of the rows, which nodes have been seen, and the sums.
  """

  def turn(sums, chosen):
    chosen &= ~void
    sums = _calls(
      config, tables, params, member, chunk, plan, chosen, need, sums
    )
    return sums, _marginalize(config, member, chunk, sums, need)

  start = _old_rows(config, tables, member, chunk, need, found)
  if config.differentiable:
    sums, weights = turn(start, plan.needed)
    return sums, plan.needed, weights
  pruning = (need == ALL) & (eps > 0)
  least = jnp.log(eps)

  # Without pruning there is one turn; with it another, for what is worth it.
  turns = jnp.where(pruning & (eps < 1), 2, 1)

  def body(carry):
    left, sums, done, weights = carry
    first = jnp.where(pruning, plan.leads, plan.needed)
    worthy = _worthy(chunk, done, weights.share >= least)
    now = jnp.where(left == turns, first, worthy & plan.needed & ~done)
    sums, weights = turn(sums, now)
    return left - 1, sums, done | now, weights

  def nothing(*shape):
    return jnp.full((len(chunk.taken), *shape), -jnp.inf)

  weights = _Weights(
    byte=nothing(config.chunk_bytes),
    next=None if found.next is None else nothing(config.chunk_bytes, 257),
    last=nothing(config.max_frontier),
    share=nothing(config.chunk_nodes),
  )
  carry = turns, start, jnp.zeros_like(plan.needed), weights
  _, sums, done, weights = jax.lax.while_loop(
    lambda carry: carry[0] > 0, body, carry
  )
  return sums, done, weights


def _worthy(chunk, done, heavy):
  """Nodes that are heavy, or come of heavy ones and were not seen yet.

  Args:
    chunk: the chunk.
    done: `bool[B, N]` nodes that the model has seen.
    heavy: `bool[B, N]` what the others are, where their parent is one of them.
  """
  width = chunk.row.shape[1]
  each = jnp.arange(len(done))

  def one(at, worthy):
    up = chunk.log.parent[:, at] - width
    inside = jnp.maximum(up, 0)
    known = (up < 0) | done[each, inside]
    own = jnp.where(known, heavy[:, at], worthy[each, inside])
    return worthy.at[:, at].set(own | done[:, at])

  return jax.lax.fori_loop(0, chunk.log.count.max(), one, jnp.zeros_like(done))


def _old_rows(config, tables, member, chunk, need, found) -> _Sums:
  """Sums taken from the rows of entries from before the chunk."""
  batch, width = member.evaluated.shape
  count, steps = config.chunk_nodes, config.chunk_bytes
  each = jnp.arange(batch)[:, None]
  log = chunk.log

  def empty(*shape):
    return jnp.full((batch, *shape), -jnp.inf)

  spelled = jnp.where(member.evaluated, member.rows.total, -jnp.inf)
  sums = _Sums(
    ending=None if found.next is None else empty(steps, width, 257),
    starts=empty(steps, width),
    beyond=empty(steps, width) if config.trust_model else None,
    step=empty(count),
    spelled=jnp.concatenate([spelled, empty(count)], 1),
    ahead=_ahead(tables, member) if config.trust_model else None,
    rows=member.rows,
    cache=member.cache,
  )
  entry = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (batch, width))
  old = jnp.where(member.evaluated, entry, NONE)
  first = jnp.zeros_like(old)
  sums = _follow(
    config, tables, chunk, member.rows, old, entry, first, need == ALL, sums
  )
  sums = _branch(config, tables, chunk, member.rows, old, width, sums)
  # Children of these entries.
  up = jnp.clip(log.parent, 0, width - 1)
  value = member.rows.token[each, up, jnp.maximum(log.token, 0)]
  return sums._replace(
    step=jnp.where((log.parent >= 0) & (log.parent < width), value, sums.step)
  )


def _calls(
  config, tables, params, member, chunk, plan, chosen, need, sums
) -> _Sums:
  """Shows the model some nodes, and reduces their rows."""
  batch, width = member.evaluated.shape
  count, rows = config.chunk_nodes, config.chunk_rows
  each = jnp.arange(batch)[:, None]
  log = chunk.log
  token = _model_ids(tables, member, chunk)
  position = member.offset[:, None] + log.depth
  order, number = places(chosen)
  most = number.max()

  def body(carry):
    done, sums = carry
    rank = done + jnp.arange(rows, dtype=jnp.int32)
    rank = jnp.minimum(rank, count - 1)
    at = order[:, rank]
    some = (done + jnp.arange(rows))[None] < number[:, None]

    def pick(leaf):
      return leaf[each, at]

    slot = jnp.where(some, pick(plan.slot), config.capacity)
    logits, cache = config.extend(
      params,
      sums.cache,
      pick(token),
      jnp.where(some, pick(position), 0),
      slot,
      unpack(pick(plan.attends)) & some[:, :, None],
    )
    if config.differentiable:
      # What nobody asks for may be no number, and then its gradient is none.
      logits = jnp.where(some[:, :, None], logits, 0.0)
    seen = lemma.rows(
      tables,
      flat(logits),
      jax.tree.map(lambda leaf: flat(pick(leaf)), log.inputs),
      trust_model=config.trust_model,
    )
    seen = jax.tree.map(
      lambda leaf: leaf.reshape(batch, rows, *leaf.shape[1:]), seen
    )
    own = jnp.where(some, width + at, NONE)
    sums = _follow(
      config,
      tables,
      chunk,
      seen,
      own,
      pick(log.entry),
      pick(log.step) + 1,
      need == ALL,
      sums,
    )
    # Last tokens of nodes whose parents are here.
    row_of = jnp.full((batch, count), NONE, jnp.int32)
    row_of = row_of.at[each, jnp.where(some, at, count)].set(
      jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), at.shape),
      mode="drop",
    )
    up = jnp.take_along_axis(row_of, jnp.maximum(log.parent - width, 0), 1)
    here = (log.parent >= width) & (up != NONE)
    value = seen.token[each, jnp.maximum(up, 0), jnp.maximum(log.token, 0)]
    # Rows of the last entries stay.
    stay = jnp.take_along_axis(chunk.row, pick(log.entry), 1) == own
    keep = jnp.where(stay & some, pick(log.entry), width)
    numbers = jnp.full((batch, width), NONE, jnp.int32)
    numbers = jnp.concatenate([numbers, row_of], 1)
    sums = _branch(config, tables, chunk, seen, numbers, rows, sums)
    sums = sums._replace(
      step=jnp.where(here, value, sums.step),
      spelled=sums.spelled.at[each, jnp.where(some, own, width + count)].set(
        seen.total, mode="drop"
      ),
      rows=jax.tree.map(
        lambda old, new: old.at[each, keep].set(new, mode="drop"),
        sums.rows,
        seen,
      ),
      cache=cache,
    )
    return done + rows, sums

  return repeat(
    config.differentiable,
    -(-count // rows),
    lambda carry: carry[0] < most,
    body,
    (jnp.int32(0), sums),
  )[1]


def _ahead(tables, member):
  """See `_Sums.ahead`."""
  batch, width = member.evaluated.shape
  trie_node = member.frontier.trie_node.ravel()
  low = tables.low[trie_node] + tables.equal[trie_node]
  high = jnp.where(trie_node == NONE, low, tables.high[trie_node])
  row = jnp.arange(batch * width, dtype=jnp.int32)
  found = lemma.interval_logsumexp(flat(member.rows), row, low, high).reshape(
    batch, width
  )
  at_node = member.frontier.trie_node == ROOT
  found = jnp.where(at_node, member.rows.total, found)
  return jnp.where(member.evaluated, found, -jnp.inf)


def _follow(config, tables, chunk, rows, own, entry, first, wanted, sums):
  """Fills in `starts` and `beyond` of rows, along the chunk's bytes.

  Args:
    rows: `[B, R, ...]`.
    own: `int32[B, R]` number of each row, -1 for none.
    entry: `int32[B, R]` the entry that it belongs to.
    first: `int32[B, R]` the byte after its node.
    wanted: `bool[]` nothing is done without it.
    sums: the sums so far.
  """
  batch, count = own.shape
  each = jnp.arange(batch)[:, None]
  steps = config.chunk_bytes
  flat_rows = flat(rows)
  row = jnp.arange(batch * count, dtype=jnp.int32)

  def now(depth):
    at = jnp.clip(first + depth, 0, steps - 1)
    here = (chunk.rows[each, at, entry] == own) & (own != NONE)
    here &= first + depth < steps
    # A node that is born at this very byte is not followed yet.
    return at, here & (chunk.parent[each, at, entry] == NONE)

  def cond(carry):
    depth, _, _ = carry
    return wanted & (depth < steps) & now(depth)[1].any()

  def body(carry):
    depth, starts, beyond = carry
    at, here = now(depth)
    trie_node = chunk.trie_node[each, at, entry]
    low, high = tables.low[trie_node], tables.high[trie_node]
    put = jnp.where(here, at, steps)

    def mass(low):
      stop = jnp.where(here, high, low)
      found = lemma.interval_logsumexp(
        flat_rows, row, low.ravel(), stop.ravel()
      )
      return found.reshape(batch, count)

    starts = starts.at[each, put, entry].set(mass(low), mode="drop")
    if beyond is not None:
      longer = low + tables.equal[trie_node]
      beyond = beyond.at[each, put, entry].set(mass(longer), mode="drop")
    return depth + 1, starts, beyond

  _, starts, beyond = repeat(
    config.differentiable,
    min(tables.longest, steps),
    cond,
    body,
    (jnp.int32(0), sums.starts, sums.beyond),
  )
  return sums._replace(starts=starts, beyond=beyond)


def _branch(config, tables, chunk, rows, numbers, count, sums):
  """Fills in `ending` of rows: the next byte after each of the chunk's bytes.

  Args:
    rows: `[B, R, ...]`.
    numbers: `int32[B, M]` index in `rows` of each row number of the chunk, -1
      if it is not there.
    count: `R`.
    sums: the sums so far.
  """
  if sums.ending is None:
    return sums
  batch, steps, width, _ = sums.ending.shape
  each = jnp.arange(batch)[:, None, None]
  known = (chunk.rows != NONE) & (chunk.rows < numbers.shape[1])
  row = jnp.where(known, numbers[each, jnp.where(known, chunk.rows, 0)], NONE)
  flat_row = jnp.where(row == NONE, NONE, row + each * count).ravel()
  found = lemma.next_bytes(
    tables,
    flat(rows),
    flat_row,
    chunk.trie_node.ravel(),
    fixed=config.differentiable,
  ).reshape(batch, steps, width, 257)
  here = (row != NONE)[..., None]
  return sums._replace(ending=jnp.where(here, found, sums.ending))


class _Weights(NamedTuple):
  """Results of marginalizing over the covers of each prefix.

  Attributes:
    byte: `float32[B, C]` log-prob of each byte.
    next: `float32[B, C, 257]` log-probs of the byte after each; None without
      `Reading.next`.
    last: `float32[B, W]` log of each last entry's probability over that of
      the text.
    share: `float32[B, N]` log of each logged node's probability over that of
      the text up to the node's end.
  """

  byte: Float[Array, "B C"]
  next: Float[Array, "B C 257"] | None
  last: Float[Array, "B W"]
  share: Float[Array, "B N"]


class _Sum(NamedTuple):
  """While reading: `now`, log-prob of the text so far in two floats; `birth`,
  what it was where each node ends, and `weight`, the node's weight then;
  `alive`, what all next bytes get together.
  """

  now: Float[Array, "2"]
  birth: Float[Array, "WN 2"]
  weight: Float[Array, " WN"]
  alive: Float[Array, ""]


def _marginalize(config, member, chunk, sums, need) -> _Weights:
  """Adds up the covers of every prefix."""
  sums = sums._replace(rows=None, cache=None)

  def one(logprob, evaluated, chunk, sums):
    return _marginalize_one(config, logprob, evaluated, chunk, sums, need)

  return jax.vmap(one)(member.logprob, member.evaluated, chunk, sums)


def _marginalize_one(
  config: EngineConfig,
  logprob: Float[Array, " W"],
  evaluated: Bool[Array, " W"],
  chunk: Chunk,
  sums: _Sums,
  need: Int[Array, ""],
) -> _Weights:
  """`_marginalize` of one text."""
  step, spelled = sums.step, sums.spelled
  width, count = config.max_frontier, config.chunk_nodes
  log = chunk.log
  size = width + count
  wanted = need == ALL

  def now_of(state, row):
    since = (state.now[0] - state.birth[row, 0]) + (
      state.now[1] - state.birth[row, 1]
    )
    return jnp.where(row == NONE, -jnp.inf, state.weight[row] - since)

  # Entries from before the chunk; of those in the log whose parent waits too,
  # the last token is known now.
  weight = jnp.full((size,), -jnp.inf)
  weight = weight.at[:width].set(jnp.where(evaluated, logprob, -jnp.inf))

  def seed(at, weight):
    up = log.parent[at]
    given = logprob[jnp.maximum(log.entry[at], 0)]
    value = jnp.where(up == NONE, given, weight[up] + step[at])
    some = (log.step[at] == NONE) & (at < log.count)
    return weight.at[jnp.where(some, width + at, size)].set(value, mode="drop")

  weight = jax.lax.fori_loop(0, width, seed, weight)

  def read(state, inputs):
    n, rows, parent, starts, beyond, ending = inputs
    valid = n < chunk.taken
    born = parent != NONE
    old = jnp.where(born | (starts == -jnp.inf), NONE, rows)
    grown = logsumexp(now_of(state, old) + starts, 0)
    byte = grown - state.alive
    at = jnp.maximum(rows - width, 0)
    above = now_of(state, jnp.where(born, parent, NONE)) + step[at]
    # Where nobody asks for log-probs, any scale will do.
    most = jnp.where(born, above, -jnp.inf).max()
    most = jnp.where(jnp.isneginf(most), 0.0, jax.lax.stop_gradient(most))
    grown = jnp.where(wanted, grown, most)
    now = add_exactly(state.now, grown)
    put = jnp.where(valid & born, rows, size)
    fresh = jnp.where(born, above - grown, -jnp.inf)
    state = _Sum(
      now=jnp.where(valid, now, state.now),
      birth=state.birth.at[put].set(now, mode="drop"),
      weight=state.weight.at[put].set(fresh, mode="drop"),
      alive=state.alive,
    )
    if config.trust_model:
      rest = jnp.where(born, spelled[jnp.maximum(rows, 0)], beyond)
      alive = logsumexp(now_of(state, rows) + rest, 0)
      state = state._replace(alive=jnp.where(valid, alive, state.alive))
    following = None
    if ending is not None:
      following = logsumexp(now_of(state, rows)[:, None] + ending, 0)
    return state, (jnp.where(valid & wanted, byte, 0.0), following)

  alive = jnp.float32(0)
  if config.trust_model:
    # The root is in the log, and has no bytes behind it.
    first = weight[width] + spelled[width]
    old = logsumexp(jnp.where(evaluated, logprob, -jnp.inf) + sums.ahead, 0)
    alive = jnp.where(log.node[0] == 0, first, old)
  state = _Sum(
    now=jnp.zeros(2),
    birth=jnp.zeros((size, 2)),
    weight=weight,
    alive=alive,
  )
  steps = jnp.arange(config.chunk_bytes, dtype=jnp.int32)
  inputs = (sums.starts, sums.beyond, sums.ending)
  state, (byte, following) = jax.lax.scan(
    read, state, (steps, chunk.rows, chunk.parent, *inputs)
  )
  last = now_of(state, chunk.row)
  share = state.weight[width:]
  return _Weights(byte=byte, next=following, last=last, share=share)
