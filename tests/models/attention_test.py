"""Device: attention and cache rows, against the obvious NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byteprob.models import attention

_B, _T, _S, _N, _K, _D = 2, 3, 5, 6, 2, 4


def _random(*shape, seed):
  x = np.random.default_rng(seed).normal(size=shape)
  return x.astype(np.float32)


def _obvious(q, k, v, mask, scale, softcap):
  """One query head of one row at a time, in float64."""
  y = np.zeros(q.shape)
  for b, t, n in np.ndindex(q.shape[:3]):
    head = n // (_N // _K)
    scores = k[b, :, head].astype(np.float64) @ q[b, t, n] * scale
    if softcap:
      scores = softcap * np.tanh(scores / softcap)
    seen = mask[b, t]
    if seen.any():
      weights = np.exp(scores[seen])
      y[b, t, n] = weights / weights.sum() @ v[b, seen, head]
  return y


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_equals_the_obvious_one(softcap, apart):
  q = _random(_B, _T, _N, _D, seed=0)
  k = _random(_B, _S, _K, _D, seed=1)
  v = _random(_B, _S, _K, _D, seed=2)
  mask = np.random.default_rng(3).random((_B, _T, _S)) < 0.6
  mask[0, 1] = False
  got = attention.attend(
    jnp.asarray(q),
    jnp.asarray(k),
    jnp.asarray(v),
    jnp.asarray(mask),
    scale=0.9,
    softcap=softcap,
    precision="highest",
    apart=apart,
  )
  want = _obvious(q, k, v, mask, 0.9, softcap)
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert not np.asarray(got[0, 1]).any()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_gradients_are_the_finite_differences(softcap, apart):
  q = _random(_B, _T, _N, _D, seed=0)
  k = _random(_B, _S, _K, _D, seed=1)
  v = _random(_B, _S, _K, _D, seed=2)
  weights = _random(_B, _T, _N, _D, seed=4)
  mask = np.random.default_rng(3).random((_B, _T, _S)) < 0.6
  mask[0, 1], mask[1, 2] = False, [True] + [False] * (_S - 1)

  def loss(q, k, v):
    y = attention.attend(
      q,
      k,
      v,
      jnp.asarray(mask),
      scale=0.9,
      softcap=softcap,
      precision="highest",
      apart=apart,
    )
    return jnp.sum(y * weights)

  gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
  assert not np.asarray(gradients[0][0, 1]).any()
  inputs = [x.astype(np.float64) for x in (q, k, v)]
  for i, gradient in enumerate(gradients):
    ahead = np.random.default_rng(5 + i).normal(size=gradient.shape)
    got = np.sum(np.asarray(gradient, np.float64) * ahead)
    values = []
    for step in (1e-5, -1e-5):
      moved = list(inputs)
      moved[i] = moved[i] + step * ahead
      values.append(np.sum(_obvious(*moved, mask, 0.9, softcap) * weights))
    want = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_scores_of_any_size_are_finite():
  q = jnp.full((1, 2, 1, 1), 1e18)
  k = jnp.asarray([1e18, -1e18, 0.0], jnp.float32).reshape(1, 3, 1, 1)
  v = jnp.asarray([1.0, 2.0, 3.0], jnp.float32).reshape(1, 3, 1, 1)
  mask = jnp.asarray([[[True] * 3, [False, True, True]]])
  got = attention.attend(
    q, k, v, mask, scale=1.0, softcap=None, precision="highest"
  )
  np.testing.assert_array_equal(got[0, :, 0, 0], [1.0, 3.0])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_rows_go_to_their_slots_or_nowhere(batch, rows):
  leaf = _random(batch, _S, 2, seed=0)
  new = _random(batch, rows, 2, seed=1)
  rng = np.random.default_rng(2)
  for trial in range(4):
    slots = np.stack([rng.permutation(_S + 2)[:rows] for _ in range(batch)])
    if trial == 0:
      slots[:] = _S + np.arange(rows)
    want = leaf.copy()
    for b, t in np.ndindex(batch, rows):
      if slots[b, t] < _S:
        want[b, slots[b, t]] = new[b, t]
    got = attention.write(
      jnp.asarray(leaf), jnp.asarray(new), jnp.asarray(slots)
    )
    np.testing.assert_array_equal(got, want)


def test_rotation_is_of_the_two_halves():
  x = jnp.asarray([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
  cos, sin = attention.rope_angles(jnp.asarray([[2]]), [0.5, np.pi / 4])
  got = attention.apply_rope(x, cos, sin)[0, 0, 0]
  # (x0, x2) turns by 1, (x1, x3) by a right angle.
  want = [np.cos(1.0), -1.0, np.sin(1.0), 0.0]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_window_counts_positions_not_slots():
  mask = jnp.ones((1, 1, 4), bool)
  got = attention.window_mask(
    mask, jnp.asarray([[9]]), jnp.asarray([[9, 2, 7, 6]]), 3
  )
  np.testing.assert_array_equal(got[0, 0], [True, False, True, False])
