"""Device: the engine inside other programs: gradients, scans, maps, meshes."""

import dataclasses
import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from benches import close, make_bench

import byteprob
from byteprob import engine
from byteprob.engine import batch as batches
from byteprob.errors import PromptError

SLOW = ("unigram_ties_1", "gemma", "whole_pieces", "wordpiece")
NAMES = (
  "gpt2",
  *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)
TEXTS, LONGEST = 4, 8
TINY = {
  "capacity": 32,
  "chunk_bytes": 8,
  "chunk_nodes": 32,
  "chunk_rows": 8,
  "differentiable": True,
}

_init = jax.jit(engine.init, static_argnums=(0, 2))
_read = jax.jit(engine.read, static_argnums=0)
_step = jax.jit(engine.step, static_argnums=0)
_settle = jax.jit(engine.settle, static_argnums=0)


def extend(params, cache, tokens, positions, slots, mask):
  """The fake model, whose padding has gradients: numbers, if any."""
  # A row that attends to nothing is taken for one that attends to slot 0.
  first = jnp.arange(mask.shape[2])[None, None] == 0
  none = ~mask.any(2, keepdims=True)
  cache = {**cache, "value": jnp.nan_to_num(cache["value"])}
  return fakes.extend(
    params, cache, tokens, positions, slots, mask | (none & first)
  )


class Rig:
  """Texts of one tokenizer, and the engine's functions on them."""

  def __init__(self, name, **sizes):
    self.one = make_bench(name)
    self.tables, self.params = self.one.padded, self.one.model.params
    self.model = dataclasses.replace(self.one.model, extend=extend)
    self.config = engine.EngineConfig.of(
      self.model, self.tables, **{**TINY, **sizes}
    )
    texts = [text for text in self.one.texts() if len(text) <= LONGEST]
    self.texts = [b"", *sorted(texts, key=len)[-TEXTS + 1 :]]
    self.root = np.full(TEXTS, self.one.entry.start[0], np.int32)

  def arrays(self, texts=None):
    byte = np.zeros((TEXTS, LONGEST), np.uint8)
    length = np.zeros(TEXTS, np.int32)
    for k, text in enumerate(texts or self.texts):
      byte[k, : len(text)] = list(text)
      length[k] = len(text)
    return byte, length

  def begin(self):
    return _init(self.config, self.tables, TEXTS, None, self.root)

  def logprobs(self, params, byte, length):
    return engine.text_logprobs(
      self.config, self.tables, params, byte, length, root_id=self.root
    )

  @functools.cached_property
  def chosen_bytes(self):
    """Sum of the log-probs of some bytes, all of them, and the gradient."""

    def total(params, byte, length, chosen):
      rows = self.logprobs(params, byte, length)
      return jnp.where(chosen, rows, 0.0).sum(), rows

    return jax.jit(jax.value_and_grad(total, has_aux=True))

  def reference(self, params):
    """The law, in float64, of any parameters."""
    embed, head = (np.float64(params[k]) for k in ("embed", "head"))

    def row(path):
      place = np.arange(len(path))
      weight = fakes._DECAY ** place[::-1] * (1 + 0.5 * np.sin(place))
      return np.tanh(weight @ embed[list(path)]) @ head

    return oracle.Reference(self.one.oracle, row, self.one.entry.start)


rig = functools.cache(Rig)


def direction(params, seed=0):
  """Somewhere to move the parameters to."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)


def slope(one, value, seed=0):
  """How the brute force changes: central differences, in float64."""
  params, far = one.params, 1e-5
  way = direction(params, seed)

  def moved(far):
    shifted = jax.tree.map(lambda a, b: np.float64(a) + far * b, params, way)
    return value(one.reference(shifted))

  return (moved(far) - moved(-far)) / (2 * far)


def along(one, gradient, seed=0):
  """The same of a gradient, all of which are numbers."""
  way = direction(one.params, seed)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  return sum(
    float((np.float64(a) * b).sum())
    for a, b in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True
    )
  )


# Gradients -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_texts_are_the_brute_forces(name):
  one = rig(name)
  law = one.reference(one.params)
  # One text goes on with a byte that is impossible, and then with another.
  some = max(one.texts, key=len)[: LONGEST - 2]
  never = int(np.flatnonzero(np.isneginf(law.next(some)[:256]))[0])
  texts = [*one.texts[: TEXTS - 1], some + bytes([never, never])]
  byte, length = one.arrays(texts)
  able = np.zeros((TEXTS, LONGEST), bool)
  for k, text in enumerate(texts):
    able[k, : len(text)] = True
  able[-1, len(some) :] = False

  def wanted(law):
    return sum(law.each(text).sum() for text in [*texts[:-1], some])

  (_, rows), gradient = one.chosen_bytes(one.params, byte, length, able)
  for row, text in zip(rows, [*texts[:-1], some], strict=True):
    close(row[: len(text)], law.each(text))
    assert (row[len(text) :] == 0).all() or text == some
  assert np.isneginf(rows[-1, len(some) : len(some) + 2]).all()
  assert abs(slope(one, wanted)) > 0.1
  np.testing.assert_allclose(
    along(one, gradient), slope(one, wanted), rtol=1e-4
  )
  # What is impossible has no gradient, but is no obstacle either.
  (total, _), same = one.chosen_bytes(one.params, byte, length, byte < 256)
  assert np.isneginf(total)
  np.testing.assert_allclose(along(one, same), along(one, gradient), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_next_bytes_are_the_brute_forces(name):
  """Read, step by step, and ask for what comes then; much is impossible."""
  one = rig(name)
  text = max(one.texts, key=len)
  law = one.reference(one.params).next(text)
  able = np.flatnonzero(np.isfinite(law))
  assert 1 < len(able) < 257
  likely = able[law[able].argmax()]
  never = np.flatnonzero(np.isneginf(law))[0]

  def chosen(params, symbol):
    state = _settle(one.config, one.tables, params, one.begin())
    given = jnp.array([list(text)] * TEXTS, jnp.int32).T
    state, _ = jax.lax.scan(
      lambda state, byte: (
        _step(one.config, one.tables, params, state, byte),
        None,
      ),
      state,
      given,
    )
    row = engine.next_logprobs(state)[0]
    return row[symbol], (row, state.needs)

  grad = jax.jit(jax.value_and_grad(chosen, has_aux=True))
  (_, (found, needs)), gradient = grad(one.params, likely)
  assert not needs.any()
  close(found, law)
  wanted = slope(one, lambda law: law.next(text)[likely])
  np.testing.assert_allclose(along(one, gradient), wanted, rtol=1e-3, atol=1e-4)
  (value, _), gradient = grad(one.params, never)
  assert np.isneginf(value) and abs(along(one, gradient)) < 1e-6


# Other transformations -------------------------------------------------------


def test_texts_are_mapped_over_more_axes():
  """Each with parameters of its own, in a loop."""
  one = rig("gpt2", differentiable=False)
  byte, length = one.arrays()
  other = jax.tree.map(lambda leaf: -leaf, one.params)
  params = jax.tree.map(lambda *leaves: jnp.stack(leaves), one.params, other)
  bytes_ = np.stack([byte, byte[::-1]])
  lengths = np.stack([length, length[::-1]])

  @jax.jit
  def both(params):
    many = jax.vmap(one.logprobs)
    found = jax.lax.scan(
      lambda _, sign: (
        None,
        many(jax.tree.map(lambda leaf: sign * leaf, params), bytes_, lengths),
      ),
      None,
      jnp.array([1.0, -1.0]),
    )
    return found[1]

  found = both(params)
  laws = [one.reference(one.params), one.reference(other)]
  for turn in range(2):
    for k, texts in enumerate((one.texts, one.texts[::-1])):
      law = laws[(k + turn) % 2]
      for row, text in zip(found[turn, k], texts, strict=True):
        close(row[: len(text)], law.each(text), 2e-5)


@pytest.mark.slow
def test_gradients_are_mapped_and_descended_in_a_loop():
  one = rig("gpt2")
  byte, length = one.arrays()

  def loss(params, row, size):
    bytes_ = jnp.broadcast_to(row[None], byte.shape)
    sizes = jnp.full(TEXTS, size)
    return -one.logprobs(params, bytes_, sizes)[0].sum()

  @jax.jit
  def train(params):
    def turn(params, _):
      values, gradients = jax.vmap(
        jax.value_and_grad(loss), in_axes=(None, 0, 0)
      )(params, byte, length)
      params = jax.tree.map(
        lambda leaf, each: leaf - 0.02 * each.sum(0), params, gradients
      )
      return params, (values, jax.tree.map(lambda leaf: leaf[:1], gradients))

    return jax.lax.scan(turn, params, length=3)[1]

  values, _ = train(one.params)
  law = one.reference(one.params)
  close(values[0], [-law.total(text) for text in one.texts], 1e-4)
  total = values.sum(1)
  assert (total[1:] < total[:-1]).all()


def test_a_model_may_have_traced_parameters():
  one = rig("gpt2")

  def value(params, tables):
    model = dataclasses.replace(one.model, params=params)
    lm = byteprob.ByteLM(model, tables)
    found = engine.text_logprobs(
      one.config,
      lm.tables,
      lm.model.params,
      *one.arrays(),
      root_id=one.root,
    )
    return found.sum()

  for tables in (one.tables, jax.tree.map(np.asarray, one.tables)):
    gradient = jax.eval_shape(
      jax.grad(lambda params, known=tables: value(params, known)), one.params
    )
    assert jax.tree.structure(gradient) == jax.tree.structure(one.params)
  jax.eval_shape(jax.grad(value), one.params, one.tables)


# Room ------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("sizes", "need"),
  [
    ({"max_frontier": 2, "differentiable": False}, "FRONTIER"),
    pytest.param({"max_new_nodes": 1}, "NODES", marks=pytest.mark.slow),
  ],
)
def test_too_little_room_is_said_and_made(sizes, need):
  one = rig("gpt2", **sizes)
  config, common = one.config, (one.tables, one.params)
  state = one.begin()
  if need != "NODES":
    # Else the root and the first node are evaluated at one step.
    state = _settle(config, *common, state)
  lacked = engine.Needs(0)
  texts = [max(one.texts, key=len)] * 2 + sorted(one.texts, key=len)[-2:]
  for _ in range(2 * LONGEST):
    read = np.asarray(state.member.num_bytes)
    byte = [
      text[at] if at < len(text) else 256
      for text, at in zip(texts, read, strict=True)
    ]
    if min(byte) == 256:
      break
    before = state
    state = _step(config, *common, state, np.array(byte))
    for k, needs in enumerate(state.needs):
      row = engine.next_logprobs(state)[k]
      assert np.isnan(row).all() if needs else not np.isnan(row).any()
      if not needs and byte[k] == 256:
        # The end leaves a text as it is.
        close(row, before.next[k])
    if state.needs.any():
      lacked |= engine.Needs(int(max(state.needs)))
      # What lacks something stands still.
      again = _step(config, *common, state, np.array(byte))
      still = np.asarray(state.needs) != 0
      np.testing.assert_array_equal(
        again.member.num_bytes[still], state.member.num_bytes[still]
      )
      config, state = engine.enlarge(config, state)
      state = _settle(config, *common, state)
  assert lacked == engine.Needs[need]
  for row, text in zip(engine.next_logprobs(state), texts, strict=True):
    close(row, one.reference(one.params).next(text))


@pytest.mark.parametrize(
  ("sizes", "need"),
  [
    ({"max_frontier": 2, "chunk_nodes": 2, "chunk_rows": 2}, "BYTES"),
    pytest.param(
      {"max_frontier": 2, "differentiable": False},
      "FRONTIER",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_what_is_not_read_is_no_number(sizes, need):
  one = rig("gpt2", **sizes)
  byte, length = one.arrays()
  state, found = _read(
    one.config, one.tables, one.params, one.begin(), byte, length
  )
  needs = np.bitwise_or.reduce(np.asarray(state.needs))
  assert needs & engine.Needs[need]
  for k, text in enumerate(one.texts):
    taken = int(found.taken[k])
    law = one.reference(one.params).each(text)
    close(found.logprob[k, :taken], law[:taken])
    assert np.isnan(found.logprob[k, taken : len(text)]).all()
    assert (found.logprob[k, len(text) :] == 0).all()
    assert bool(state.needs[k]) == (taken < len(text))


def test_a_text_longer_than_the_context_is_refused_on_the_host():
  config = rig("gpt2").config
  with pytest.raises(byteprob.PromptError, match="4096"):
    engine.larger(config, engine.Needs.CONTEXT | engine.Needs.BYTES)
  grown = engine.larger(config, engine.Needs.NODES | engine.Needs.BYTES)
  assert grown.max_new_nodes == 2 * config.max_new_nodes
  assert grown.chunk_nodes == 2 * config.chunk_nodes
  with pytest.raises(ValueError, match="init_cache"):
    bare = dataclasses.replace(config, init_cache=None)
    engine.init(bare, rig("gpt2").tables, 1)


# Draws -----------------------------------------------------------------------


@pytest.mark.slow
def test_draws_are_those_of_the_library():
  one = rig("gpt2", differentiable=False)
  lm, size = one.one.byte_lm(), 12
  keys = jax.random.split(jax.random.key(0), TEXTS)
  wanted = lm.sample([b""] * TEXTS, keys, size)
  how = batches.settle()._replace(settle=np.bool_(False))
  state, drawn = jax.jit(engine.generate, static_argnums=(0, 7))(
    one.config,
    one.tables,
    one.params,
    one.begin(),
    how,
    jax.random.key_data(keys),
    np.full(TEXTS, size, np.int32),
    size,
  )
  assert not state.needs.any()
  for k, sample in enumerate(wanted):
    assert drawn.byte[k, : drawn.count[k]].tobytes() == sample.text
  state = _settle(one.config, one.tables, one.params, state)
  for row, sample in zip(engine.next_logprobs(state), wanted, strict=True):
    close(row, one.reference(one.params).next(sample.text), 2e-5)


def test_logits_that_are_no_numbers_are_no_lack_of_room():
  one = make_bench("gpt2")
  config = engine.EngineConfig.of(one.model, one.padded, capacity=32)
  params = {**one.model.params, "head": one.model.params["head"] * np.nan}
  root = np.full(1, one.entry.start[-1], np.int32)
  state = engine.init(config, one.padded, 1, root_id=root)
  request = engine.request_of(
    engine.LogitWarpers(
      np.float32(1), np.int32(257), np.float32(1), np.float32(0), np.bool_(0)
    )
  )
  key = np.zeros((1, 2), np.uint32)
  limit = np.full(1, 4, np.int32)
  state, _ = jax.jit(engine.generate, static_argnums=(0, 7))(
    config, one.padded, params, state, request, key, limit, 8
  )
  assert int(state.needs[0]) == engine.Needs.NUMBERS
  with pytest.raises(PromptError, match=r"not numbers \(NaN\)"):
    engine.larger(config, int(state.needs[0]))
