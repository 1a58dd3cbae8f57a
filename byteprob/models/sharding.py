"""Device: where the parts of a decoder lie on a mesh.

Each axis of a parameter has a name, and each name an axis of the mesh (or
none: then all devices have it whole). That is the layout of Megatron-LM
(arXiv 1909.08053): the first product of each block is split by its outputs,
the second by its inputs, and one sum over `model` ends the block. The output
matrix is split by tokens, and so are the logits; the sums over tokens that
bytes are made of become sums over `model`.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from byteprob.errors import MeshError
from byteprob.models import decoder
from byteprob.models.config import DecoderConfig
from byteprob.types import Cache, Model, Params

RULES = {
  "batch": "data",
  "heads": "model",
  "kv_heads": "model",
  "mlp": "model",
  "vocab": "model",
}
"""The mesh's axis that each named axis is split over."""

_NAMES = (
  (r"embed/embedding|head/weight", ("vocab", None)),
  (r"layer_\d+/attention/query/\w+", ("heads", None)),
  (r"layer_\d+/attention/(key|value)/\w+", ("kv_heads", None)),
  (r"layer_\d+/attention/out/weight", (None, "heads")),
  (r"layer_\d+/mlp/(gate|up)/\w+", ("mlp", None)),
  (r"layer_\d+/mlp/down/weight", (None, "mlp")),
)
"""Names of the axes of parameters, by path; a bias has the first alone."""


def check(config: DecoderConfig, mesh: Mesh) -> None:
  """Refuses a mesh that cannot split a decoder.

  Its query heads and hidden units must be split evenly; key heads, vocabulary
  and batches are not split where they cannot be.

  Raises:
    MeshError: with the nearest size that can.
  """
  size = mesh.shape["model"]
  needed = {
    "attention heads": config.heads,
    "hidden units": config.mlp_width,
  }
  bad = [f"{n} {name}" for name, n in needed.items() if n % size]
  if bad:
    common = math.gcd(*needed.values())
    able = [n for n in range(1, common + 1) if common % n == 0]
    nearest = min(able, key=lambda n: (abs(n - size), n))
    raise MeshError(
      f"The mesh's axis model:{size} does not divide the model's"
      f" {' and '.join(bad)}; the nearest size that does is model:{nearest}."
    )


def named(
  config: DecoderConfig, mesh: Mesh, names: tuple[str | None, ...], batch=1
) -> NamedSharding:
  """The sharding of an array whose axes have these names."""
  sizes = {
    "batch": batch,
    "heads": config.heads,
    "kv_heads": config.kv_heads,
    "mlp": config.mlp_width,
    "vocab": config.vocab_size,
  }

  def axis(name):
    if name is None or sizes[name] % mesh.shape[RULES[name]]:
      return None
    return RULES[name]

  return NamedSharding(mesh, PartitionSpec(*map(axis, names)))


def of_param(
  config: DecoderConfig, mesh: Mesh, path: str, ndim: int
) -> NamedSharding:
  """The sharding of the parameter at `path` (`layer_0/mlp/up/weight`)."""
  for pattern, names in _NAMES:
    if re.fullmatch(pattern, path):
      return named(config, mesh, names[:ndim])
  return named(config, mesh, ())


def of_params(config: DecoderConfig, mesh: Mesh, tree: Any) -> Any:
  """Shardings for a tree that has the parameters in it, at any depth.

  Such as an optimizer's state: what has a parameter's path lies where the
  parameter lies.

  Args:
    config: the decoder.
    mesh: the mesh.
    tree: arrays or their shapes.
  """

  def sharding(path, leaf):
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    while keys and not re.fullmatch(r"layer_\d+|embed|head", str(keys[0])):
      keys = keys[1:]
    return of_param(config, mesh, "/".join(map(str, keys)), leaf.ndim)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def of_cache(config: DecoderConfig, mesh: Mesh, batch: int) -> Any:
  """Shardings of a cache: texts over `data`, key heads over `model`."""
  heads = named(config, mesh, ("batch", None, "kv_heads"), batch)
  return {
    "layers": [{"k": heads, "v": heads} for _ in config.layers],
    "positions": named(config, mesh, ("batch",), batch),
  }


def make_model(
  config: DecoderConfig,
  params: Params,
  mesh: Mesh,
  dtype: Any = jnp.float32,
) -> Model:
  """`decoder.make_model` on a mesh.

  Args:
    config: the decoder.
    params: its parameters; those that lie where they should are not moved.
    mesh: the mesh.
    dtype: see `decoder.make_model`.

  Raises:
    MeshError: see `check`.
  """
  check(config, mesh)
  params = decoder.cast_params(params, dtype)
  return Model(
    init_cache=functools.partial(_init_cache, config, mesh, jnp.dtype(dtype)),
    extend=functools.partial(extend, config, mesh),
    params=jax.device_put(params, of_params(config, mesh, params)),
    vocab_size=config.vocab_size,
    context_length=config.context_length,
  )


@functools.partial(jax.jit, static_argnums=range(5))
def _init_cache(config, mesh, dtype, batch: int, capacity: int) -> Cache:
  cache = decoder.init_cache(config, batch, capacity, dtype)
  return _pin_cache(config, mesh, cache)


def extend(
  config: DecoderConfig,
  mesh: Mesh,
  params: Params,
  cache: Cache,
  tokens: jax.Array,
  positions: jax.Array,
  slots: jax.Array,
  mask: jax.Array,
) -> tuple[jax.Array, Cache]:
  """`decoder.extend` on a mesh; the logits are split by texts and tokens."""
  batch = len(tokens)
  pin = functools.partial(_pin, config, mesh, batch)
  inputs = [pin(x, "batch") for x in (tokens, positions, slots, mask)]
  cache = _pin_cache(config, mesh, cache)
  # Heads that meet would have their scores summed over devices.
  logits, cache = decoder.extend(
    config, params, cache, *inputs, heads_apart=mesh.shape["model"] > 1
  )
  return pin(logits, "batch", None, "vocab"), _pin_cache(config, mesh, cache)


def _pin(config, mesh, batch, x, *names):
  sharding = named(config, mesh, names, batch)
  return jax.lax.with_sharding_constraint(x, sharding)


def _pin_cache(config, mesh, cache):
  where = of_cache(config, mesh, len(cache["positions"]))
  return jax.lax.with_sharding_constraint(cache, where)
