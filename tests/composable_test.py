"""Device: the engine inside other programs: gradients, scans, maps, meshes."""

import functools
import pathlib

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from benches import close, make_bench

from byteprob import engine
from byteprob.types import Model

TESTS = pathlib.Path(__file__).parent
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

_logprobs = jax.jit(engine.text_logprobs, static_argnums=0)
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
    self.model = Model(
      **{
        **vars(self.one.model),
        "extend": extend,
      }
    )
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

  def logprobs(self, params, texts=None):
    return _logprobs(
      self.config,
      self.tables,
      params,
      *self.arrays(texts),
      root_id=self.root,
    )

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

  def total(params):
    rows = one.logprobs(params)
    return rows.sum(), rows

  grad = jax.value_and_grad(total, has_aux=True)
  (_, rows), gradient = jax.jit(grad)(one.params)
  for row, text in zip(rows, one.texts, strict=True):
    close(row[: len(text)], one.reference(one.params).each(text))
    assert (row[len(text) :] == 0).all()
  wanted = slope(one, lambda law: sum(map(law.total, one.texts)))
  assert abs(wanted) > 0.1
  np.testing.assert_allclose(along(one, gradient), wanted, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_next_bytes_are_the_brute_forces(name):
  """Read, step by step, and ask for what comes then; much is impossible."""
  one = rig(name)
  text = max(one.texts, key=len)
  law = one.reference(one.params).next(text)
  able = np.flatnonzero(np.isfinite(law))
  assert 1 < len(able) < 257
  likely = able[law[able].argmax()]

  def chosen(params):
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
    return row[likely], (row, state.needs)

  grad = jax.value_and_grad(chosen, has_aux=True)
  (_, (found, needs)), gradient = jax.jit(grad)(one.params)
  assert not needs.any()
  close(found, law)
  wanted = slope(one, lambda law: law.next(text)[likely])
  np.testing.assert_allclose(along(one, gradient), wanted, rtol=1e-3, atol=1e-4)
