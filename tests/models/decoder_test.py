"""Device: the cached forward, under every layout of slots and trees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byteprob import models
from byteprob.models import DecoderConfig, Layer, Rope

_VOCAB = 23
_ROPE = Rope(theta=100.0)
_SIZES = dict(
  vocab_size=_VOCAB,
  context_length=64,
  width=16,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=24,
  attention_scale=8**-0.5,
)
_CONFIGS = {
  "full": DecoderConfig(**_SIZES, layers=(Layer(rope=_ROPE),) * 2),
  # A window that the sequences here outgrow, and a layer without.
  "window": DecoderConfig(
    **_SIZES,
    layers=(
      Layer(rope=_ROPE, window=3),
      Layer(rope=Rope(theta=50.0, factors=(2.0,) * 4)),
      Layer(rope=_ROPE, window=5),
    ),
    sandwich_norm=True,
    qk_norm=True,
    attention_softcap=3.0,
    logit_softcap=5.0,
  ),
  "learned": DecoderConfig(
    **(_SIZES | {"kv_heads": 4}),
    layers=(Layer(),) * 2,
    norm="layer",
    qkv_bias=True,
    learned_positions=True,
    gated_mlp=False,
    tied=True,
  ),
}
# All calls are of a few shapes: compiling is what takes the time here.
_CAPACITY = 11
_TOLERANCE = dict(rtol=0, atol=1e-5)


@functools.cache
def _params(config):
  init = functools.partial(models.init_params, config)
  shapes = jax.eval_shape(init, jax.random.key(0))
  rng = np.random.default_rng(0)
  # Not the initial values, under which attention hardly matters.
  return jax.tree.map(
    lambda x: (
      jnp.asarray(rng.normal(1.0, 0.4, x.shape), x.dtype)
      if len(x.shape) == 1
      else jnp.asarray(rng.normal(0.0, 0.3, x.shape), x.dtype)
    ),
    shapes,
  )


@functools.cache
def _extend(config):
  return jax.jit(functools.partial(models.extend, config))


@functools.cache
def _forward(config):
  return jax.jit(functools.partial(models.forward, config))


def _tokens(batch, length, seed=2):
  return jax.random.randint(
    jax.random.key(seed), (batch, length), 0, _VOCAB, jnp.int32
  )


def _full(config, tokens):
  return np.asarray(_forward(config)(_params(config), tokens))


def _chain(config, tokens, sizes, slots, cache=None):
  """Logits of `tokens` fed in calls of `sizes` rows, to `slots` `[B, n]`."""
  batch, length = tokens.shape
  if cache is None:
    cache = models.init_cache(config, batch, _CAPACITY)
  slots = jnp.broadcast_to(jnp.asarray(slots, jnp.int32), (batch, length))
  rows = jnp.arange(batch)[:, None]
  logits, start = [], 0
  for size in sizes:
    stop = start + size
    # Row i attends to the slots of rows 0 to i.
    mask = np.zeros((batch, size, _CAPACITY), bool)
    for i in range(size):
      mask[rows, i, slots[:, : start + i + 1]] = True
    positions = jnp.broadcast_to(jnp.arange(start, stop)[None], (batch, size))
    y, cache = _extend(config)(
      _params(config),
      cache,
      tokens[:, start:stop],
      positions,
      slots[:, start:stop],
      jnp.asarray(mask),
    )
    logits.append(y)
    start = stop
  return np.concatenate(logits, axis=1), cache


configs = pytest.mark.parametrize("config", _CONFIGS.values(), ids=_CONFIGS)


@configs
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 1, 4]])
def test_cached_equals_uncached(config, sizes):
  tokens = _tokens(2, 9)
  got, _ = _chain(config, tokens, sizes, np.arange(9)[None])
  np.testing.assert_allclose(got, _full(config, tokens), **_TOLERANCE)


@configs
def test_slots_may_be_in_any_order(config):
  tokens = _tokens(2, 9)
  rng = np.random.default_rng(0)
  slots = np.stack([rng.permutation(_CAPACITY)[:9] for _ in range(2)])
  got, _ = _chain(config, tokens, [4, 1, 4], slots)
  np.testing.assert_allclose(got, _full(config, tokens), **_TOLERANCE)


@configs
def test_slots_may_be_used_again(config):
  first, second = _tokens(2, 9, seed=3), _tokens(2, 9, seed=4)
  slots = np.arange(9)[None]
  _, cache = _chain(config, first, [4, 1, 4], slots)
  got, _ = _chain(config, second, [4, 4, 1], slots[:, ::-1], cache)
  np.testing.assert_allclose(got, _full(config, second), **_TOLERANCE)


@configs
def test_the_cache_has_slots_on_its_second_axis(config):
  cache = models.init_cache(config, 2, _CAPACITY, jnp.bfloat16)
  rows = (2, _CAPACITY, config.kv_heads, config.head_dim)
  assert [x.shape for x in jax.tree.leaves(cache["layers"])] == [rows] * (
    2 * len(config.layers)
  )
  assert cache["layers"][0]["k"].dtype == jnp.bfloat16
  assert cache["positions"].shape == (2, _CAPACITY)


# A trunk of three nodes, two children of its end, and a child of each.
_PARENTS = [-1, 0, 1, 2, 2, 3, 4]


def _tree_call(config, tokens, parents, extra=0):
  """All nodes in one call, and `extra` rows of padding among them."""
  count = len(parents)
  order = np.random.default_rng(1).permutation(count + extra)
  ancestors = np.zeros((count, count), bool)
  depth = np.zeros(count, np.int32)
  for i, parent in enumerate(parents):
    if parent >= 0:
      ancestors[i], depth[i] = ancestors[parent], depth[parent] + 1
    ancestors[i, i] = True
  slots = np.random.default_rng(2).permutation(_CAPACITY)[:count]
  rows = {
    "tokens": np.full(count + extra, 10**6, np.int32),
    "positions": np.full(count + extra, 10**6, np.int32),
    "slots": np.full(count + extra, _CAPACITY + 3, np.int32),
    "mask": np.zeros((count + extra, _CAPACITY), bool),
  }
  at = order[:count]
  rows["tokens"][at] = tokens
  rows["positions"][at] = depth
  rows["slots"][at] = slots
  for i in range(count):
    rows["mask"][at[i], slots[ancestors[i]]] = True
  cache = models.init_cache(config, 1, _CAPACITY)
  logits, cache = _extend(config)(
    _params(config), cache, **{k: jnp.asarray(v)[None] for k, v in rows.items()}
  )
  return np.asarray(logits[0]), at, cache


@configs
def test_every_path_of_a_tree_equals_its_own_sequence(config):
  tokens = np.asarray(_tokens(1, 7)[0])
  logits, at, _ = _tree_call(config, tokens, _PARENTS)
  for path in ([0, 1, 2, 3, 5], [0, 1, 2, 4, 6]):
    want = _full(config, jnp.asarray(tokens[path])[None])[0]
    np.testing.assert_allclose(logits[at[path]], want, **_TOLERANCE)


@configs
def test_siblings_do_not_see_each_other(config):
  tokens = np.asarray(_tokens(1, 7)[0])
  changed = tokens.copy()
  changed[[3, 5]] = (tokens[[3, 5]] + 1) % _VOCAB
  before, at, _ = _tree_call(config, tokens, _PARENTS)
  after, _, _ = _tree_call(config, changed, _PARENTS)
  same = at[[0, 1, 2, 4, 6]]
  np.testing.assert_array_equal(before[same], after[same])
  assert (np.abs(before - after).max(axis=1)[at[[3, 5]]] > 1e-3).all()


@configs
def test_padding_changes_nothing(config):
  tokens = np.asarray(_tokens(1, 7)[0])
  want, at, cache = _tree_call(config, tokens, _PARENTS)
  got, padded_at, padded_cache = _tree_call(config, tokens, _PARENTS, extra=4)
  np.testing.assert_allclose(got[padded_at], want[at], **_TOLERANCE)
  assert np.isfinite(got).all()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **_TOLERANCE),
    padded_cache,
    cache,
  )


@configs
def test_a_single_dropped_row_changes_nothing(config):
  # One row in one batch is written by a path of its own.
  _, cache = _chain(config, _tokens(1, 9), [4, 1, 4], np.arange(9)[None])
  one = jnp.ones((1, 1), jnp.int32)
  nothing = jnp.zeros((1, 1, _CAPACITY), bool)
  logits, after = _extend(config)(
    _params(config), cache, one, one, _CAPACITY * one, nothing
  )
  assert np.isfinite(logits).all()
  jax.tree.map(np.testing.assert_array_equal, after, cache)


@configs
def test_rows_of_a_batch_do_not_see_each_other(config):
  tokens = _tokens(2, 9)
  slots = np.stack([np.roll(np.arange(_CAPACITY), s)[:9] for s in (0, 4)])
  got, _ = _chain(config, tokens, [4, 1, 4], slots)
  for i in range(2):
    alone = slice(i, i + 1)
    want, _ = _chain(config, tokens[alone], [4, 1, 4], slots[alone])
    np.testing.assert_allclose(got[alone], want, **_TOLERANCE)
  changed = tokens.at[1].add(1) % _VOCAB
  others, _ = _chain(config, changed, [4, 1, 4], slots)
  np.testing.assert_array_equal(got[0], others[0])
  assert np.abs(got[1] - others[1]).max() > 1e-3


@configs
def test_vmap_equals_the_batch_axis(config):
  tokens = _tokens(2, 9)
  model = models.make_model(config, _params(config))
  mask = jnp.tril(jnp.ones((9, _CAPACITY), bool))[None, None]
  row = jnp.arange(9, dtype=jnp.int32)[None, None]
  spread = functools.partial(jax.tree.map, lambda x: x[:, None])
  extend = jax.vmap(functools.partial(model.extend, model.params))
  logits, _ = jax.jit(extend)(
    spread(model.init_cache(2, _CAPACITY)),
    tokens[:, None],
    jnp.repeat(row, 2, axis=0),
    jnp.repeat(row, 2, axis=0),
    jnp.repeat(mask, 2, axis=0),
  )
  np.testing.assert_allclose(logits[:, 0], _full(config, tokens), **_TOLERANCE)


@configs
def test_the_forward_is_causal_and_has_gradients(config):
  tokens = _tokens(1, 8)

  def embedded(embedding, row):
    params = _params(config) | {"embed": {"embedding": embedding}}
    logits = models.forward(config, params, tokens)
    return jnp.take(logits[0], row, axis=0).sum()

  # All tokens differ, so that a row of the embedding is one position.
  tokens = jnp.arange(8, dtype=jnp.int32)[None]
  if config.tied:
    # The other use of the embedding would touch every row of it.
    config = dataclasses.replace(config, tied=False)
  table = _params(config)["embed"]["embedding"]
  slope = jax.jit(jax.grad(embedded))
  for row in (0, 3, 7):
    gradient = np.asarray(slope(table, row))
    assert np.isfinite(gradient).all()
    touched = np.flatnonzero(np.abs(gradient).max(axis=1))
    np.testing.assert_array_equal(touched, np.arange(row + 1))


@configs
@pytest.mark.parametrize("length", [1, 6])
def test_gradients_pass_by_padding(config, length):
  # Two rows of a text, or one, and rows of padding that attend to nothing.
  real = min(length, 2)
  at = np.arange(length, dtype=np.int32)[None]
  tokens = jnp.asarray(np.where(at < real, at + 3, 10**6))
  slots = jnp.asarray(np.where(at < real, at, _CAPACITY))
  mask = np.zeros((1, length, _CAPACITY), bool)
  mask[0, :real, :real] = np.tril(np.ones((real, real), bool))
  cache = models.init_cache(config, 1, _CAPACITY)
  leaves, tree = jax.tree.flatten(_params(config))
  rng = np.random.default_rng(7)
  ahead = [rng.normal(size=x.shape).astype(np.float32) for x in leaves]

  def loss(leaves):
    params = jax.tree.unflatten(tree, leaves)
    logits, _ = models.extend(
      config, params, cache, tokens, jnp.asarray(at), slots, jnp.asarray(mask)
    )
    return jnp.sum(jnp.tanh(logits[:, :real]))

  gradients = jax.jit(jax.grad(loss))(leaves)
  assert all(np.isfinite(x).all() for x in gradients)
  got = sum(np.sum(x * y) for x, y in zip(gradients, ahead, strict=True))
  step, value = 1e-3, jax.jit(loss)
  before, after = (
    value([x + s * y for x, y in zip(leaves, ahead, strict=True)])
    for s in (-step, step)
  )
  np.testing.assert_allclose(
    got, (after - before) / (2 * step), rtol=0.02, atol=0.02
  )


@configs
def test_packed_texts_do_not_see_each_other(config):
  texts = [_tokens(1, 9, seed=5), _tokens(1, 9, seed=6)]
  tokens = jnp.concatenate(texts, axis=1)
  segment = jnp.asarray([[0] * 9 + [1] * 9])
  positions = jnp.asarray([[*range(9), *range(9)]], jnp.int32)
  got = _forward(config)(
    _params(config),
    tokens,
    segment_mask=segment[:, :, None] == segment[:, None],
    positions=positions,
  )
  want = np.concatenate([_full(config, text) for text in texts], axis=1)
  np.testing.assert_allclose(got, want, **_TOLERANCE)


@configs
def test_bfloat16_is_close_to_float32(config):
  tokens = _tokens(2, 9)
  model = models.make_model(config, _params(config), jnp.bfloat16)
  cache = model.init_cache(2, 9)
  assert {x.dtype for x in jax.tree.leaves(cache["layers"])} == {
    jnp.dtype(jnp.bfloat16)
  }
  row = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32)[None], (2, 9))
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((9, 9), bool)), (2, 9, 9))
  extend = jax.jit(model.extend)
  logits, _ = extend(model.params, cache, tokens, row, row, mask)
  assert logits.dtype == jnp.float32
  want = _full(config, tokens)
  assert np.abs(logits - want).mean() < 0.05 * np.abs(want).mean()


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("name", ["full", "window"])
def test_a_donated_cache_is_updated_in_place(name, kv_heads, length):
  if jax.default_backend() != "cpu":
    pytest.skip("other compilers take memory for other reasons")
  config = dataclasses.replace(_CONFIGS[name], kv_heads=kv_heads)
  capacity = 4096
  step = jax.jit(functools.partial(models.extend, config), donate_argnums=1)
  params = jax.eval_shape(
    functools.partial(models.init_params, config), jax.random.key(0)
  )
  cache = models.init_cache(config, 1, capacity)
  row = jnp.zeros((1, length), jnp.int32)
  mask = jnp.ones((1, length, capacity), bool)
  compiled = step.lower(params, cache, row, row, row, mask).compile()
  memory = compiled.memory_analysis()
  sizes = [x.nbytes for x in jax.tree.leaves(cache)]
  assert memory.alias_size_in_bytes >= sum(sizes)
  # Scores and weights, and one layer's keys and values with their axes moved,
  # where there is more than one head: no second copy of what is written.
  scores = 4 * length * config.heads * capacity
  moved = 2 * max(sizes) if kv_heads > 1 else 0
  assert memory.temp_size_in_bytes < 3 * scores + moved


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"heads": 3}, "3 query heads cannot share 2"),
    ({"head_dim": 7}, "head_dim is 7, want an even number"),
    ({"head_dim": 6}, "4 rotary factors for heads of 6"),
  ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
  rope = Rope(theta=10.0, factors=(1.0,) * 4)
  with pytest.raises(ValueError, match=message):
    DecoderConfig(**(_SIZES | changes), layers=(Layer(rope=rope),))


@pytest.mark.parametrize(
  "rope",
  [dict(theta=0.5), dict(theta=np.nan), dict(theta=9.0, factors=(1.0, 0.0))],
)
def test_frequencies_that_cannot_be_are_refused(rope):
  with pytest.raises(ValueError, match="rotary"):
    Rope(**rope)


def test_learned_positions_end():
  config = _CONFIGS["learned"]
  with pytest.raises(ValueError, match="65 rows, but only 64 learned"):
    models.forward(config, _params(config), _tokens(1, 65))
