"""Device: rotary positions, cache rows, and attention under any mask."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def rotations(
  positions: Int[Array, "B T"], step: Sequence[float]
) -> tuple[Float[Array, "B T 1 D/2"], Float[Array, "B T 1 D/2"]]:
  """Cosines and sines of every row's angles, for `rotate`."""
  step = jnp.asarray(step, jnp.float32)[None, None, None]
  angles = positions.astype(jnp.float32)[:, :, None, None] * step
  return jnp.cos(angles), jnp.sin(angles)


def rotate(
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

  Returns:
    The mixed values, in `q`'s dtype.
  """
  batch, length, heads, dim = q.shape
  kv_heads = k.shape[2]
  group = heads // kv_heads
  # The queries that share a key head are rows of one matrix: keys are never
  # repeated. Axes are moved here rather than by the einsums, which on CPUs
  # would transpose the keys as well.
  q = q.reshape(batch, length, kv_heads, group * dim).transpose(0, 2, 1, 3)
  q = q.reshape(batch, kv_heads, length * group, dim)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  scores = jnp.einsum(
    "bkrd,bksd->bkrs",
    q,
    k,
    precision=precision,
    preferred_element_type=jnp.float32,
  )
  scores = scores.reshape(batch, kv_heads, length, group, -1) * scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(mask[:, None, :, None], scores, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
  # The largest weight is 1, unless all are 0: the maximum changes nothing but
  # 0 / 0. Not 1, where a sum of exactly 1 would lose half of its gradient.
  total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 0.5)
  weights = weights.reshape(batch, kv_heads, length * group, -1)
  mixed = jnp.einsum(
    "bkrs,bksd->bkrd",
    weights.astype(v.dtype),
    v,
    precision=precision,
    preferred_element_type=jnp.float32,
  )
  mixed = mixed.reshape(batch, kv_heads, length, group, dim) / total
  mixed = mixed.transpose(0, 2, 1, 3, 4).reshape(batch, length, heads, dim)
  return mixed.astype(q.dtype)
