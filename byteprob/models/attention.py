"""Device: rotary positions, cache rows, and attention under any mask."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def rope_angles(
  positions: Int[Array, "B T"], step: Sequence[float]
) -> tuple[Float[Array, "B T 1 D/2"], Float[Array, "B T 1 D/2"]]:
  """Cosines and sines of every row's angles, for `apply_rope`."""
  step = jnp.asarray(step, jnp.float32)[None, None, None]
  angles = positions.astype(jnp.float32)[:, :, None, None] * step
  return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
  x: Float[Array, "B T N D"],
  cos: Float[Array, "B T 1 D/2"],
  sin: Float[Array, "B T 1 D/2"],
) -> Float[Array, "B T N D"]:
  """Turns the pairs `(x[i], x[i + D/2])`; float32 inside, `x`'s dtype out."""
  left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [left * cos - right * sin, right * cos + left * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def write(
  leaf: Array,
  rows: Array,
  slots: Int[Array, "B T"],
) -> Array:
  """Writes `rows` `[B, T, ...]` to their slots of `leaf` `[B, S, ...]`.

  Slots of `S` or more are dropped. In place when `leaf` is donated.
  """
  rows = rows.astype(leaf.dtype)
  if slots.size == 1:
    # XLA turns a dropping scatter of a single row into a choice between two
    # whole arrays, which copies the cache: give it a second row to drop.
    nowhere = jnp.full_like(slots, leaf.shape[1])
    slots = jnp.concatenate([slots, nowhere], axis=1)
    rows = jnp.concatenate([rows, rows], axis=1)
  batch = jnp.arange(leaf.shape[0])[:, None]
  return leaf.at[batch, slots].set(rows, mode="drop")


def window_mask(
  mask: Bool[Array, "B T S"],
  positions: Int[Array, "B T"],
  key_positions: Int[Array, "B S"],
  window: int | None,
) -> Bool[Array, "B T S"]:
  """`mask` without the slots `window` or more positions before each row."""
  if window is None:
    return mask
  return mask & (positions[:, :, None] - key_positions[:, None] < window)


def attend(
  q: Float[Array, "B T N D"],
  k: Float[Array, "B S K D"],
  v: Float[Array, "B S K D"],
  mask: Bool[Array, "B T S"],
  *,
  scale: float,
  softcap: float | None,
  precision: str,
  apart: bool = False,
) -> Float[Array, "B T N D"]:
  """Grouped-query attention; softmax in float32.

  Query heads `[i N/K, (i + 1) N/K)` share key head `i`. A row with an empty
  mask attends to nothing, exactly: zeros, never NaN.

  Args:
    q: queries, after any rotation.
    k: keys, likewise.
    v: values.
    mask: which slots each row attends to.
    scale: multiplies the scores.
    softcap: see `DecoderConfig`.
    precision: of the products.
    apart: keep key heads apart however few rows there are: they are on
      several devices.

  Returns:
    The mixed values, in `q`'s dtype.
  """
  dot = functools.partial(
    jax.lax.dot_general,
    precision=precision,
    preferred_element_type=jnp.float32,
  )
  few = q.shape[1] * k.shape[2] <= _FEW
  how = _attend_together if few and not apart else _attend_apart
  return how(q, k, v, mask, functools.partial(_cap, scale, softcap), dot)


_FEW = 16
"""Rows times key heads that are multiplied with all heads at once."""


def _attend_together(q, k, v, mask, cap, dot):
  """`attend` where a query meets all key heads, zero for all but its own.

  That is `K` times the work, but keys and values stay as the cache has them:
  to move them takes longer than to multiply a few rows by them.
  """
  batch, length, heads, dim = q.shape
  slots, kv_heads = k.shape[1:3]
  own = np.arange(heads)[:, None] // (heads // kv_heads) == np.arange(kv_heads)
  own = own[None, None, :, :, None]
  # Else XLA would rotate a query anew for every head that it meets.
  q = jax.lax.optimization_barrier(q)
  spread = jnp.where(own, q[:, :, :, None], jnp.zeros((), q.dtype))
  spread = spread.transpose(0, 3, 4, 1, 2)
  spread = spread.reshape(batch, kv_heads * dim, length * heads)
  # Slots come first: what follows is along the other axis, as vectors.
  scores = dot(
    k.reshape(batch, slots, kv_heads * dim),
    spread,
    (((2,), (1,)), ((0,), (0,))),
  )
  scores = cap(scores).reshape(batch, slots, length, heads)
  mask = mask.transpose(0, 2, 1)[..., None]
  weights, total = _softmax(scores, mask, 1)
  mixed = dot(
    weights.reshape(batch, slots, length * heads).astype(v.dtype),
    v.reshape(batch, slots, kv_heads * dim),
    (((1,), (1,)), ((0,), (0,))),
  )
  mixed = mixed.reshape(batch, length, heads, kv_heads, dim)
  mixed = jnp.sum(jnp.where(own, mixed, 0.0), axis=3)
  return (mixed / total.reshape(batch, length, heads, 1)).astype(q.dtype)


def _attend_apart(q, k, v, mask, cap, dot):
  """`attend` with a product for each key head."""
  batch, length, heads, dim = q.shape
  kv_heads = k.shape[2]
  group = heads // kv_heads
  # The queries that share a key head are rows of one matrix: keys are never
  # repeated. Axes are moved here rather than by the products, which on CPUs
  # would transpose the keys as well.
  rows = q.reshape(batch, length, kv_heads, group * dim).transpose(0, 2, 1, 3)
  rows = rows.reshape(batch, kv_heads, length * group, dim)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  scores = cap(dot(rows, k, (((3,), (3,)), ((0, 1), (0, 1)))))
  scores = scores.reshape(batch, kv_heads, length, group, -1)
  weights, total = _softmax(scores, mask[:, None, :, None], 4)
  weights = weights.reshape(batch, kv_heads, length * group, -1)
  mixed = dot(weights.astype(v.dtype), v, (((3,), (2,)), ((0, 1), (0, 1))))
  mixed = mixed.reshape(batch, kv_heads, length, group, dim) / total
  mixed = mixed.transpose(0, 2, 1, 3, 4).reshape(batch, length, heads, dim)
  return mixed.astype(q.dtype)


def _cap(scale, softcap, scores):
  scores *= scale
  return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _softmax(scores, mask, axis):
  """Weights, and what to divide them by."""
  scores = jnp.where(mask, scores, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(scores, axis, keepdims=True))
  weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
  # The largest weight is 1, unless all are 0: the maximum changes nothing but
  # 0 / 0. Not 1, where a sum of exactly 1 would lose half of its gradient.
  total = jnp.sum(weights, axis, keepdims=True)
  return weights, jnp.maximum(total, 0.5)
