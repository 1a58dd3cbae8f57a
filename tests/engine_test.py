"""Device: texts that grow by bytes, against the brute force."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import close, make_bench
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from byteprob import pooling
from byteprob.engine import batch as batches
from byteprob.engine import combine, grow, reading, request, state
from byteprob.engine.config import EngineConfig
from byteprob.engine.evaluate import known_logprobs, unevaluated_mass
from byteprob.engine.generate import Given, LoopConfig, State, generate
from byteprob.engine.needs import Needs
from byteprob.numerics import normalized

TEXTS = 16
SLOW = ("unigram_ties_1", "gemma", "whole_pieces", "wordpiece")
NAMES = (
  "gpt2",
  *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)
FREE = request.LogitWarpers(
  np.float32(1), np.int32(257), np.float32(1), np.float32(0), np.bool_(False)
)
TINY = {"chunk_bytes": 3, "chunk_nodes": 32, "chunk_rows": 4}
"""Sizes of chunks that texts of 16 bytes are cut into many of."""

_generate = jax.jit(generate, static_argnums=0)
_read = jax.jit(reading.read, static_argnums=0, static_argnames="along")


@jax.jit
def _known(tables, member):
  """What is known of the next bytes, and what is not."""
  everyone = jnp.ones(member.num_bytes.shape, bool)
  found = known_logprobs(tables, member, everyone)
  return found, unevaluated_mass(member)


class Rig:
  """The engine's functions on one tokenizer, for `TEXTS` texts."""

  def __init__(self, name, **sizes):
    self.one = make_bench(name)
    self.tables, self.model = self.one.padded, self.one.model
    sizes = {"capacity": 64, **TINY, **sizes}
    self.config = EngineConfig.of(self.model, self.tables, **sizes)
    # Some as they come, and some of the longest.
    few, many = (
      self.one.texts()[: TEXTS // 2],
      sorted(self.one.texts(), key=len),
    )
    self.texts = [*few, *many[-TEXTS // 2 :]]

  def begin(self):
    """The empty texts."""
    (root,) = self.one.entry.start
    start = np.full(TEXTS, self.tables.start, np.int32)
    roots = np.full(TEXTS, root, np.int32)
    init = self.model.init_cache
    return state.init(self.config, init, self.tables, start, roots)

  def under_way(self, member, limit=0, seed=0):
    """Texts to be gone on with."""
    zero = jnp.zeros(TEXTS, jnp.int32)
    keys = jax.random.split(jax.random.key(seed), TEXTS)
    return State(
      members=(member,),
      log_weights=jnp.zeros((TEXTS, 1)),
      output=jnp.zeros((TEXTS, 64), jnp.uint8),
      logprob=jnp.zeros((TEXTS, 64)),
      count=zero,
      recent=jnp.zeros((TEXTS, batches.STOPS[1]), jnp.uint8),
      length=zero,
      limit=zero + limit,
      taken=zero,
      key=jax.random.key_data(keys),
      dfa_state=zero,
      status=zero,
      calls=zero,
      needs=jnp.int32(0),
    )

  def run(self, member, how, texts=(), limit=0, seed=0):
    """Reads given texts and draws; makes room where it is needed."""
    loop = LoopConfig(members=(self.config,))
    now = self.under_way(member, limit, seed)
    what = Given(*padded(texts))
    while True:
      now, _ = _generate(
        loop,
        (self.tables,),
        (self.model.params,),
        how,
        what,
        now,
        np.int32(1000),
      )
      needs = int(now.needs)
      if not needs:
        return now
      member = grow.grow(loop.members[0], needs, now.members[0])
      size = grow.grown(loop.members[0], needs)
      loop = LoopConfig(members=(size,))
      now = now._replace(members=(member,), needs=jnp.int32(0))

  def read(self, member, texts, need, **rest):
    """Reads texts; there must be room."""
    member, found = _read(
      self.config,
      self.tables,
      self.model.params,
      member,
      *padded(texts),
      np.int32(need),
      **rest,
    )
    assert [len(text) for text in texts] == found.taken[: len(texts)].tolist()
    return member, found

  def settled(self, member):
    """Texts all of whose entries are evaluated."""
    return self.run(member, batches.settle()).members[0]

  def check_next(self, member, texts):
    """What follows is what the brute force says."""
    known, rest = _known(self.tables, member)
    assert np.isneginf(rest[: len(texts)]).all()
    for row, text in zip(normalized(known), texts, strict=False):
      close(row, self.one.reference.next(text))


def padded(texts):
  """Texts as arrays, empty ones after the last."""
  byte = np.zeros((TEXTS, 32), np.uint8)
  length = np.zeros(TEXTS, np.int32)
  for k, text in enumerate(texts):
    byte[k, : len(text)] = list(text)
    length[k] = len(text)
  return byte, length


@functools.cache
def rig(name, **sizes):
  return Rig(name, **sizes)


def drawn(now):
  """The texts that were drawn."""
  return [
    row[:count].tobytes()
    for row, count in zip(
      np.asarray(now.output), np.asarray(now.count), strict=True
    )
  ]


# Texts that are given --------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [batches.settle, batches.exact])
def test_after_given_bytes_the_next_is_the_brute_forces(name, how):
  one = rig(name)
  texts = one.texts
  now = one.run(one.begin(), how(), texts)
  one.check_next(now.members[0], texts)
  assert not drawn(now)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("need", [reading.LEAD, reading.ENTRIES, reading.ALL])
def test_what_is_read_is_the_brute_forces(name, need):
  one = rig(name)
  texts = one.texts
  assert max(map(len, texts)) > 2 * TINY["chunk_bytes"]
  member, found = one.read(one.begin(), texts, need)
  if need == reading.LEAD:
    assert not np.isneginf(_known(one.tables, member)[1]).all()
    member = one.settled(member)
  one.check_next(member, texts)
  if need == reading.ALL:
    for row, text in zip(found.logprob, texts, strict=False):
      close(row[: len(text)], one.one.reference.each(text))


@pytest.mark.parametrize("name", NAMES)
def test_along_a_text_every_prefix_is_told(name):
  one = rig(name)
  texts = one.texts
  _, found = one.read(one.begin(), texts, reading.ALL, along=True)
  for rows, text in zip(normalized(found.next), texts, strict=False):
    for at in range(len(text)):
      close(rows[at], one.one.reference.next(text[: at + 1]), 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_reading_in_pieces_is_reading_at_once(name):
  one = rig(name)
  texts = one.texts
  rng = np.random.default_rng(0)
  cuts = [sorted(rng.integers(0, len(text) + 1, 2)) for text in texts]
  parts = [
    [text[:a], text[a:b], text[b:]]
    for text, (a, b) in zip(texts, cuts, strict=True)
  ]
  member, values = one.begin(), [[] for _ in texts]
  for piece in zip(*parts, strict=True):
    member, found = one.read(member, piece, reading.ALL)
    for own, row, text in zip(values, found.logprob, piece, strict=False):
      own.append(row[: len(text)])
  for own, text in zip(values, texts, strict=True):
    close(np.concatenate(own), one.one.reference.each(text))
  one.check_next(member, texts)
  for needs in itertools.product((reading.LEAD, reading.ENTRIES), repeat=2):
    member = one.begin()
    for piece, need in zip(zip(*parts, strict=True), (*needs, 1), strict=True):
      member, _ = one.read(member, piece, need)
    one.check_next(one.settled(member), texts)


@pytest.mark.parametrize("name", NAMES)
def test_reading_goes_on_after_drawing(name):
  one = rig(name)
  lazy = batches.request_of(FREE)
  now = one.run(one.begin(), lazy, limit=6)
  assert not np.isneginf(_known(one.tables, now.members[0])[1]).all()
  # An end that is drawn is not read.
  begun = drawn(now)
  texts = [piece[:5] for piece in one.one.texts()[1 : TEXTS + 1]]
  able = [
    k
    for k, text in enumerate(texts)
    if np.isfinite(one.one.reference.total(begun[k] + text))
  ]
  assert len(able) > 3
  texts = [text if k in able else b"" for k, text in enumerate(texts)]
  whole = [a + b for a, b in zip(begun, texts, strict=True)]
  for need in (reading.LEAD, reading.ENTRIES, reading.ALL):
    member, found = one.read(now.members[0], texts, need)
    one.check_next(one.settled(member), whole)
  for k, text in enumerate(texts):
    wanted = one.one.reference.each(whole[k])[len(begun[k]) :]
    # The first one's scale is that of what was known.
    close(found.logprob[k][1 : len(text)], wanted[1:], 2e-5)


# Texts that are drawn --------------------------------------------------------

WARPERS = [
  {},
  {"temperature": 0.6, "top_p": 0.9},
  {"temperature": 1.6},
  {"top_k": 3},
  {"min_p": 0.1},
  {"top_k": 4, "top_p": 0.8, "min_p": 0.05, "temperature": 1.3},
  {"greedy": True},
]


def warpers_of(temperature=1.0, top_k=257, top_p=1.0, min_p=0.0, greedy=False):
  return request.LogitWarpers(
    temperature=np.float32(temperature),
    top_k=np.int32(top_k),
    top_p=np.float32(top_p),
    min_p=np.float32(min_p),
    greedy=np.bool_(greedy),
  )


@pytest.mark.parametrize("name", NAMES)
def test_lazy_draws_are_the_exact_ones(name):
  one = rig(name)
  for how in WARPERS:
    lazy, exact = (
      one.run(
        one.begin(),
        batches.request_of(warpers_of(**how), exact=exact),
        limit=40,
        seed=len(str(how)),
      )
      for exact in (False, True)
    )
    assert drawn(lazy) == drawn(exact), how
    np.testing.assert_array_equal(lazy.status, exact.status)
    assert (lazy.calls <= exact.calls).all()
    assert lazy.calls.sum() < exact.calls.sum()


def test_what_is_not_evaluated_is_bounded():
  """The exact law lies between what is known and that and the mass."""
  one = rig("gpt2")
  lazy, open_ = batches.request_of(FREE), 0
  for limit in range(1, 13):
    now = one.run(one.begin(), lazy, limit=limit)
    known, mass = _known(one.tables, now.members[0])
    known, mass = np.exp(np.float64(known)), np.exp(np.float64(mass))
    for row, rest, text in zip(known, mass, drawn(now), strict=True):
      exact = np.exp(one.one.reference.next(text))
      assert (row[exact == 0] == 0).all()
      row, exact = row[exact > 0], exact[exact > 0]
      # Both are relative to the text, at one scale.
      least = max((row / exact).max(), row.sum())
      most = min(((row + rest) / exact).min(), row.sum() + rest)
      assert least <= most * (1 + 1e-5)
      open_ += rest > 1e-3
  assert open_ > 12


def test_pruning_loses_no_more_than_it_says():
  """The law of what is kept is as near to the exact one as `error` says."""
  one = rig("gpt2")
  how = batches.exact()._replace(eps=np.float32(0.2))
  alphabet = sorted(set("".join(one.one.entry.alphabet).encode()))
  next_, lost = one.one.reference.next, []
  for before in one.texts:
    member = one.run(one.begin(), batches.exact(), [before] * TEXTS).members[0]
    after = [bytes([byte]) for byte in alphabet]
    member = one.run(member, how, after).members[0]
    known, _ = _known(one.tables, member)
    rows = np.exp(np.float64(normalized(known)))
    error = -np.expm1(np.float64(member.kept))
    # Of texts of two bytes, or of one and the end.
    exact, far, mean = np.exp(next_(before)), 0.0, 0.0
    for row, part, byte in zip(rows, error, alphabet, strict=False):
      if not exact[byte]:
        continue
      wanted = np.exp(next_(before + bytes([byte])))
      far += 0.5 * exact[byte] * np.abs(row - wanted).sum()
      mean += exact[byte] * part
    assert far <= mean + 1e-6
    lost.append(far)
  assert sum(far > 0.01 for far in lost) > 2


# Room ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "unigram_ties_1", "wordpiece"])
@pytest.mark.parametrize(
  "sizes", [{"max_frontier": 2}, {"max_frontier": 8}, {"capacity": 32}]
)
def test_too_little_room_gives_the_same_bytes(name, sizes):
  small, large = rig(name, **sizes), rig(name)
  for exact in (False, True):
    how = batches.request_of(FREE, exact=exact)
    found = small.run(small.begin(), how, limit=60)
    wanted = large.run(large.begin(), how, limit=60)
    assert drawn(found) == drawn(wanted)
    np.testing.assert_array_equal(found.status, wanted.status)
    lengths = [len(text) for text in drawn(found)]
    assert max(lengths) > 20
  if sizes != {"max_frontier": 8}:
    # It has grown.
    assert (
      found.members[0].attends.shape[1:] > small.begin().attends.shape[1:]
      or found.members[0].attends.shape > small.begin().attends.shape
    )


@pytest.mark.parametrize("name", ["gpt2", "unigram_ties_1"])
@pytest.mark.parametrize(
  "needs", [Needs.SLOTS, Needs.FRONTIER, Needs.SLOTS | Needs.FRONTIER]
)
def test_what_has_grown_is_what_begins_larger(name, needs):
  one = rig(name)
  size = grow.grown(one.config, needs)
  grown = grow.grow(one.config, needs, one.begin())
  larger = Rig(name)
  larger.config = size
  fresh = larger.begin()
  # Row by row: what is never read may differ.
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), grown)
  assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fresh)
  for field in ("node", "trie_node", "parent", "token", "states"):
    np.testing.assert_array_equal(
      getattr(grown.frontier, field), getattr(fresh.frontier, field)
    )
  for field in ("evaluated", "attends", "logprob"):
    np.testing.assert_array_equal(getattr(grown, field), getattr(fresh, field))


# Draws from bounds -----------------------------------------------------------

SYMBOLS, WAYS = 8, 64

HOW = [
  {},
  {"temperature": 0.53},
  {"temperature": 1.71},
  {"top_k": 1},
  {"top_k": 3},
  {"top_p": 0.5003},
  {"top_p": 0.8707, "temperature": 0.71},
  {"min_p": 0.2503},
  {"min_p": 0.0907, "temperature": 1.31},
  {"top_k": 4, "top_p": 0.7307, "min_p": 0.1203, "temperature": 1.43},
  {"greedy": True},
]
"""Warpers whose limits no sums of a few whole numbers meet."""

_draw = jax.jit(request.draw)
_share = jax.jit(
  jax.vmap(lambda *one: normalized(request.warp(*one)), (None, 0))
)


def between(weight, more, rng):
  """Distributions that fit bounds: `[WAYS, SYMBOLS]`, extreme ones first."""
  part = rng.dirichlet(np.full(SYMBOLS, 0.3), WAYS)
  part[:SYMBOLS] = np.eye(SYMBOLS)  # one symbol has it all
  part *= rng.choice([1.0, 0.5, 1e-3, 0.999], (WAYS, 1))
  part[SYMBOLS] = 0
  return weight[None] + more * part


def logs(values):
  with np.errstate(divide="ignore"):
    return np.log(np.asarray(values, np.float64)).astype(np.float32)


def decisions(how, weight, more, seed):
  """Draws from bounds and from what fits them, with the same numbers.

  Returns:
    What the bounds say, whether they decide, what the others say, and whether
    the random number is so near to a step that rounding may decide.
  """
  rng = np.random.default_rng(seed)
  lot = np.float32(rng.random(WAYS))
  warpers = warpers_of(**how)
  weight = np.asarray(weight, np.float64)
  exact = between(weight, more, rng)
  low = np.tile(logs(weight), (WAYS, 1))
  rest = np.full(WAYS, logs(more))
  none = np.full(WAYS, -np.inf, np.float32)
  symbol, decided = map(np.asarray, _draw(warpers, lot, low, rest))
  wanted, sure = map(np.asarray, _draw(warpers, lot, logs(exact), none))
  assert sure.all()
  steps = np.cumsum(np.exp(np.float64(_share(warpers, logs(exact)))), 1)
  near = np.abs(steps - lot[:, None]).min(1) < 1e-5
  return symbol, decided, wanted, near


weights = st.lists(
  st.sampled_from([0, 0, 1, 1, 2, 3, 5, 40]),
  min_size=SYMBOLS,
  max_size=SYMBOLS,
)


@settings(max_examples=200, deadline=None)
@given(
  st.sampled_from(HOW),
  weights,
  st.sampled_from([0.0, 1e-4, 0.01, 0.1, 0.5, 1.0, 2.0, 30.0]),
  st.integers(0, 2**16),
)
@example({"top_k": 3}, [5, 5, 5, 5, 1, 0, 0, 0], 0.01, 0)
@example({"top_p": 0.5003}, [1, 1, 0, 0, 0, 0, 0, 0], 0.01, 0)
@example({"greedy": True}, [3, 3, 3, 0, 0, 0, 0, 0], 0.01, 0)
@example({"min_p": 0.2503}, [40, 10, 10, 10, 0, 0, 0, 0], 0.1, 0)
def test_what_bounds_decide_is_what_the_exact_law_draws(
  how, weight, more, seed
):
  assume(any(weight))
  symbol, decided, wanted, near = decisions(how, weight, more, seed)
  if how.get("greedy"):
    near = np.zeros_like(near)
  same = symbol == wanted
  assert same[decided & ~near].all()
  if more == 0:
    assert decided.all()


@pytest.mark.parametrize("how", HOW, ids=str)
def test_bounds_decide_most_draws_where_little_is_unknown(how):
  """Else the test above would hold of nothing."""
  symbol, decided, wanted, _ = decisions(how, [40, 0, 7, 3, 0, 1, 0, 0], 0.1, 0)
  assert decided.mean() > 0.5
  assert (symbol == wanted)[decided].all()
  # And where much is unknown they decide few.
  _, decided, _, _ = decisions(how, [2, 0, 2, 2, 1, 1, 0, 0], 60.0, 0)
  assert decided.mean() < 0.2


@pytest.mark.parametrize("how", HOW, ids=str)
def test_where_nothing_is_known_nothing_is_decided(how):
  low = np.full((WAYS, SYMBOLS), -np.inf, np.float32)
  lot = np.linspace(0, 1, WAYS, endpoint=False, dtype=np.float32)
  for more in (np.inf, 0.0):
    rest = np.full(WAYS, more, np.float32)
    assert not np.asarray(_draw(warpers_of(**how), lot, low, rest)[1]).any()


@pytest.mark.parametrize("how", HOW, ids=str)
def test_draws_come_in_the_shares_that_warpers_leave(how):
  values = logs([5, 0, 3, 3, 1, 2, 0, 1])
  count = 2**12
  lot = (np.arange(count) + 0.5).astype(np.float32) / count
  symbols, _ = _draw(
    warpers_of(**how),
    lot,
    np.tile(values, (count, 1)),
    np.full(count, -np.inf, np.float32),
  )
  found = np.bincount(symbols, minlength=SYMBOLS) / count
  if how.get("greedy"):
    wanted = np.eye(SYMBOLS)[0]
  else:
    wanted = np.exp(normalized(request.warp(warpers_of(**how), values)))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1.5 / count)


# Members' bounds together ----------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
  st.sampled_from([pooling.mixture, pooling.product, pooling.vote]),
  st.sampled_from([(1.0, 1.0), (0.7, 1.5)]),
  st.tuples(weights, weights),
  st.tuples(*[st.sampled_from([0.0, 0.01, 0.3, 4.0])] * 2),
  st.integers(0, 2**16),
)
def test_bounds_of_members_bound_the_whole(rule, heats, weight, more, seed):
  assume(all(map(any, weight)))
  rng = np.random.default_rng(seed)
  pool = pooling.Pool(rule=rule, follows=False, temperatures=heats)
  share = logs([0.3, 0.7])
  known = [np.tile(logs(own), (WAYS, 1)) for own in weight]
  rest = [np.full(WAYS, logs(part)) for part in more]
  low, lack = combine.bounds(pool, np.tile(share, (WAYS, 1)), known, rest)
  rows = [
    normalized(logs(between(np.float64(own), part, rng)))
    for own, part in zip(weight, more, strict=True)
  ]
  told = pool.rule(
    pooling.apply_temperature(pool, rows),
    jnp.asarray(np.tile(share, (WAYS, 1))),
  )
  low, whole = np.exp(np.float64(low)), np.exp(np.float64(told))
  lack = np.exp(np.float64(lack))
  assert (low <= whole * (1 + 1e-4) + 1e-7).all()
  assert ((whole - low).sum(1) <= lack * (1 + 1e-4) + 1e-5).all()
  if not any(more):
    assert (lack == 0).all()


def test_a_config_that_contradicts_itself_is_refused():
  one = rig("gpt2")
  with pytest.raises(ValueError, match="multiple of 32: 33"):
    dataclasses.replace(one.config, capacity=33)
  with pytest.raises(ValueError, match="at least max_frontier"):
    dataclasses.replace(one.config, chunk_nodes=16)
