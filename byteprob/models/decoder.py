"""Device: one Linen decoder for every family, its cache passed in and out.

Parameters are a plain nested dict. Weights are `[out, in]`, as checkpoints
have them (`product` says why). Layers are unrolled: stacked weights, as a scan
over layers wants them, are copied at every call on CPUs.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob.models import attention
from byteprob.models import config as config_lib
from byteprob.types import Cache, Model, Params

DecoderConfig = config_lib.DecoderConfig

_ACTIVATIONS = {
  "silu": jax.nn.silu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Norm(nn.Module):
  """RMS or layer normalisation of one axis, in float32."""

  kind: str
  eps: float
  axis: int = -1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    mean = functools.partial(jnp.mean, axis=self.axis, keepdims=True)
    y = x.astype(jnp.float32)
    if self.kind == "layer":
      y -= mean(y)
    y *= jax.lax.rsqrt(mean(jnp.square(y)) + self.eps)
    y *= self._param("scale", nn.initializers.ones, y)
    if self.kind == "layer":
      y += self._param("bias", nn.initializers.zeros, y)
    return y.astype(x.dtype)

  def _param(self, name, init, y):
    size = y.shape[self.axis]
    return along(
      self.param(name, init, (size,), jnp.float32), y.ndim, self.axis
    )


class Attention(nn.Module):
  """Grouped-query attention of new rows over cached ones, or themselves."""

  config: DecoderConfig
  layer: config_lib.Layer
  how: "How"

  @nn.compact
  def __call__(self, x, rope_angles, mask, cache, slots):
    cfg, how = self.config, self.how
    dense = functools.partial(_Dense, cfg.precision, how.axis)

    def project(name, heads):
      y = dense(heads * cfg.head_dim, cfg.qkv_bias, name=name)(x)
      return how.apart(y, mask.shape[:2], (heads, cfg.head_dim))

    q = project("query", cfg.heads)
    k = project("key", cfg.kv_heads)
    v = project("value", cfg.kv_heads)
    if cfg.qk_norm:
      q = Norm("rms", cfg.norm_eps, name="query_norm")(q)
      k = Norm("rms", cfg.norm_eps, name="key_norm")(k)
    if self.layer.rope:
      q = attention.apply_rope(q, *rope_angles)
      k = attention.apply_rope(k, *rope_angles)
    if cache is not None:
      k = attention.write(cache["k"], k, slots)
      v = attention.write(cache["v"], v, slots)
      cache = {"k": k, "v": v}
    y = attention.attend(
      q,
      k,
      v,
      mask,
      scale=cfg.attention_scale,
      softcap=cfg.attention_softcap,
      precision=cfg.precision,
      apart=how.heads_apart,
    )
    return dense(cfg.width, cfg.out_bias, name="out")(how.joined(y)), cache


class Mlp(nn.Module):
  """The feed-forward block."""

  config: DecoderConfig
  how: "How"

  @nn.compact
  def __call__(self, x):
    cfg = self.config
    dense = functools.partial(_Dense, cfg.precision, self.how.axis)
    activation = _ACTIVATIONS[cfg.activation]
    up = dense(cfg.mlp_width, cfg.mlp_bias, name="up")(x)
    if cfg.gated_mlp:
      gate = dense(cfg.mlp_width, cfg.mlp_bias, name="gate")(x)
      hidden = activation(gate) * up
    else:
      hidden = activation(up)
    return dense(cfg.width, cfg.mlp_bias, name="down")(hidden)


class Block(nn.Module):
  """Attention and feed-forward, each added to the residual stream."""

  config: DecoderConfig
  layer: config_lib.Layer
  how: "How"

  @nn.compact
  def __call__(self, x, rope_angles, mask, cache, slots):
    cfg, how = self.config, self.how
    norm = functools.partial(Norm, cfg.norm, cfg.norm_eps, how.axis)
    y, cache = Attention(cfg, self.layer, how, name="attention")(
      norm(name="attention_norm")(x), rope_angles, mask, cache, slots
    )
    x += norm(name="post_attention_norm")(y) if cfg.sandwich_norm else y
    y = Mlp(cfg, how, name="mlp")(norm(name="mlp_norm")(x))
    x += norm(name="post_mlp_norm")(y) if cfg.sandwich_norm else y
    return x, cache


class Decoder(nn.Module):
  """The decoder; see `extend` and `forward` for the two ways to call it."""

  config: DecoderConfig
  heads_apart: bool = False

  @nn.compact
  def __call__(self, tokens, positions, mask, cache=None, slots=None):
    cfg = self.config
    how = How(tokens.size in _FEW_ROWS, self.heads_apart)
    x, embedding = self._embed(tokens, positions)
    x = how.joined(x)
    key_positions = positions
    new_cache: dict[str, Any] = {"layers": []}
    if cache is not None:
      key_positions = attention.write(cache["positions"], positions, slots)
      new_cache["positions"] = key_positions
    # Each kind of layer needs its mask and its rotations once.
    masks, rope_angles = {}, {}
    for i, layer in enumerate(cfg.layers):
      if layer.window not in masks:
        masks[layer.window] = attention.window_mask(
          mask, positions, key_positions, layer.window
        )
      if layer.rope and layer.rope not in rope_angles:
        step = config_lib.frequencies(layer.rope, cfg.head_dim)
        rope_angles[layer.rope] = attention.rope_angles(positions, step)
      x, layer_cache = Block(cfg, layer, how, name=f"layer_{i}")(
        x,
        rope_angles.get(layer.rope),
        masks[layer.window],
        None if cache is None else cache["layers"][i],
        slots,
      )
      new_cache["layers"].append(layer_cache)
    logits = self._logits(x, embedding, how).reshape(*tokens.shape, -1)
    return logits, None if cache is None else new_cache

  def _embed(self, tokens, positions):
    cfg = self.config
    # Padding may hold any number: clip, where JAX's default would make NaN.
    embedding = _Table(cfg.vocab_size, cfg.width, name="embed")()
    x = jnp.take(embedding, tokens, axis=0, mode="clip")
    if cfg.embedding_scale != 1:
      x *= jnp.asarray(cfg.embedding_scale, x.dtype)
    if cfg.learned_positions:
      learned = _Table(cfg.context_length, cfg.width, name="position")()
      x += jnp.take(learned, positions, axis=0, mode="clip")
    return x, embedding

  def _logits(self, x, embedding, how):
    cfg = self.config
    x = Norm(cfg.norm, cfg.norm_eps, how.axis, name="final_norm")(x)
    weight = embedding
    if not cfg.tied:
      weight = _Weight((cfg.vocab_size, cfg.width), name="head")()
    logits = product(x, weight, cfg.precision, jnp.float32, how.axis)
    logits = _turn(logits) if how.columns else logits
    if cfg.logit_softcap:
      logits = cfg.logit_softcap * jnp.tanh(logits / cfg.logit_softcap)
    return logits


_FEW_ROWS = range(1, 65)
"""Rows of a call that are kept as columns."""


@dataclasses.dataclass(frozen=True)
class How:
  """How a call lays out its rows: a matrix `[R, I]`, or its transpose.

  XLA's CPU packs the right-hand side of a product anew at every call. For a
  few rows that takes as long as the product, so there the rows are the
  right-hand side, as columns, and stay so from the first layer to the last.

  Attributes:
    columns: they are columns.
    heads_apart: see `attention.attend`.
  """

  columns: bool
  heads_apart: bool

  @property
  def axis(self) -> int:
    """The axis of the features."""
    return 0 if self.columns else 1

  def joined(self, x: Array) -> Array:
    """The matrix of `[B, T, ...]`."""
    count = x.shape[0] * x.shape[1]
    if not self.columns:
      return x.reshape(count, -1)
    return jnp.moveaxis(x, (0, 1), (-2, -1)).reshape(-1, count)

  def apart(
    self, x: Array, rows: tuple[int, int], features: tuple[int, ...]
  ) -> Array:
    """The array `[B, T, ...]` of a matrix."""
    if not self.columns:
      return x.reshape(rows + features)
    return jnp.moveaxis(x.reshape(features + rows), (-2, -1), (0, 1))


class _Table(nn.Module):
  rows: int
  width: int

  @nn.compact
  def __call__(self):
    init = nn.initializers.normal(0.02)
    return self.param("embedding", init, (self.rows, self.width), jnp.float32)


class _Weight(nn.Module):
  shape: tuple[int, int]

  @nn.compact
  def __call__(self):
    init = nn.initializers.normal(0.02)
    return self.param("weight", init, self.shape, jnp.float32)


class _Dense(nn.Module):
  precision: str
  axis: int
  features: int
  use_bias: bool

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.normal(0.02)
    shape = (self.features, x.shape[self.axis])
    weight = self.param("weight", init, shape, jnp.float32)
    y = product(x, weight, self.precision, x.dtype, self.axis)
    if self.use_bias:
      init = nn.initializers.zeros
      bias = self.param("bias", init, shape[:1], jnp.float32)
      y += along(bias, 2, self.axis)
    return y


def product(
  x: Array,
  weight: Float[Array, "O I"],
  precision: str,
  dtype: Any,
  axis: int,
) -> Array:
  """`x @ weight.T`, or of columns `weight @ x`.

  Args:
    x: rows `[R, I]`, or columns `[I, R]`.
    weight: as it is kept.
    precision: see `DecoderConfig`.
    dtype: of the result.
    axis: of the features of `x`: 1, or 0 for columns.
  """
  dot = functools.partial(
    jax.lax.dot_general, precision=precision, preferred_element_type=dtype
  )
  if axis == 0:
    return dot(weight, x, (((1,), (0,)), ((), ())))
  return dot(x, weight, (((1,), (1,)), ((), ())))


def along(x: Float[Array, " I"], ndim: int, axis: int) -> Array:
  """A vector as an array of `ndim` axes, of which it is one."""
  shape = [1] * ndim
  shape[axis] = len(x)
  return x.reshape(shape)


def _turn(x: Float[Array, "M N"]) -> Float[Array, "N M"]:
  """The transpose, moved in memory.

  XLA takes a transpose for the product from the wrong side.
  """
  count, size = x.shape
  if size == 1:
    return x.reshape(1, count)
  at = jnp.arange(size)[:, None] + size * jnp.arange(count)[None]
  return x.reshape(-1).at[at].get(mode="promise_in_bounds")


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
  """Random parameters, float32; the key is consumed.

  `jax.eval_shape(init_params, config, key)`, with `config` closed over, gives
  the names and shapes without the arrays.
  """
  tokens = jnp.zeros((1, 1), jnp.int32)
  mask = jnp.ones((1, 1, 1), bool)
  return Decoder(config).init(key, tokens, tokens, mask)["params"]


def init_cache(
  config: DecoderConfig,
  batch: int,
  capacity: int,
  dtype: Any = jnp.float32,
) -> Cache:
  """An empty cache.

  Args:
    config: the decoder, with `K` key heads of `D` dimensions.
    batch: `B`.
    capacity: `S`, the number of slots of each batch row.
    dtype: of keys and values.

  Returns:
    `{"layers": [{"k": dtype[B, S, K, D], "v": dtype[B, S, K, D]}, ...],
    "positions": int32[B, S]}`, all zeros: empty slots are told apart by the
    caller's mask alone.
  """
  shape = (batch, capacity, config.kv_heads, config.head_dim)
  return {
    "layers": [
      {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}
      for _ in config.layers
    ],
    "positions": jnp.zeros((batch, capacity), jnp.int32),
  }


def extend(
  config: DecoderConfig,
  params: Params,
  cache: Cache,
  tokens: Int[Array, "B T"],
  positions: Int[Array, "B T"],
  slots: Int[Array, "B T"],
  mask: Bool[Array, "B T S"],
  *,
  heads_apart: bool = False,
) -> tuple[Float[Array, "B T V"], Cache]:
  """One model call, as `byteprob.types.Extend` with `config` before it.

  Layers with a window also look at positions: a row attends to a slot of its
  mask when that slot's position is less than `window` before its own. A row
  whose mask is all False gets finite logits that mean nothing. Pure; donate
  the cache to have it updated in place.

  Args:
    config: the decoder (static).
    params: as `init_params` or the loaders make them.
    cache: as `init_cache` made it, or an earlier call returned it.
    tokens: `int32[B, T]` token ids.
    positions: `int32[B, T]`.
    slots: `int32[B, T]`, not negative; `S` or more: not written. No two new
      rows of a batch row may share a slot below `S`.
    mask: `bool[B, T, S]`.
    heads_apart: see `attention.attend` (static).

  Returns:
    `float32[B, T, V]` logits and the new cache.
  """
  return Decoder(config, heads_apart).apply(
    {"params": params}, tokens, positions, mask, cache, slots
  )


def forward(
  config: DecoderConfig,
  params: Params,
  tokens: Int[Array, "B T"],
  segment_mask: Bool[Array, "B T T"] | None = None,
  positions: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
  """The plain causal forward, without a cache: for training.

  Args:
    config: the decoder (static).
    params: as `init_params` or the loaders make them.
    tokens: `int32[B, T]` token ids.
    segment_mask: `bool[B, T, T]`: which pairs of rows (query, key) are in the
      same text, where several texts are packed into one row. Default: all.
    positions: `int32[B, T]`. Default: 0 to `T - 1`.

  Returns:
    `float32[B, T, V]` logits: row `i` predicts token `i + 1`.

  Raises:
    ValueError: there are more rows than learned positions.
  """
  batch, length = tokens.shape
  if config.learned_positions and length > config.context_length:
    raise ValueError(
      f"{length} rows, but only {config.context_length} learned positions"
    )
  mask = jnp.tril(jnp.ones((length, length), bool))[None]
  mask = jnp.broadcast_to(mask, (batch, length, length))
  if segment_mask is not None:
    mask &= segment_mask
  if positions is None:
    row = jnp.arange(length, dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(row, (batch, length))
  logits, _ = Decoder(config).apply({"params": params}, tokens, positions, mask)
  return logits


def make_model(
  config: DecoderConfig, params: Params, dtype: Any = jnp.float32
) -> Model:
  """A decoder and its parameters as the functions that byteprob takes.

  Args:
    config: the decoder.
    params: its parameters, in any float dtype.
    dtype: of the parameters and the cache of the result; normalisation
      parameters stay float32.

  Returns:
    The record; `params` is copied only where the dtype differs.
  """
  return Model(
    init_cache=lambda batch, capacity: init_cache(
      config, batch, capacity, dtype
    ),
    extend=functools.partial(extend, config),
    params=cast_params(params, dtype),
    vocab_size=config.vocab_size,
    context_length=config.context_length,
  )


def cast_params(params: Params, dtype: Any) -> Params:
  """`params` in `dtype`, but for those of the norms: see `param_dtype`."""

  def cast(path, leaf):
    return leaf.astype(param_dtype([key.key for key in path], dtype))

  return jax.tree_util.tree_map_with_path(cast, params)


def param_dtype(path: Sequence[str], dtype: Any) -> Any:
  """The dtype of the parameter at `path` in a model of `dtype`.

  Norms stay float32: they are few, computed in float32, and Gemma's, one plus
  a small number, would lose most of their digits in bfloat16.
  """
  return jnp.float32 if path[-2].endswith("_norm") else dtype
