"""Host: what a model takes on each device of a mesh, by arithmetic alone.

Bytes are counted array by array. A call's time is that of its slowest part,
memory or products, and after it the sums over `model`; what the machine does
beside that is not in it, so it is the least that a call can take.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from byteprob.models import assemble, decoder, sharding
from byteprob.models.config import DecoderConfig

ROWS_AT_ONCE = 3
"""Arrays as large as a call's rows of logits that the lemma holds at a time:
log-probs, what is kept of them, and the mask."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
  """Memory and speed of an accelerator, by its maker's data sheet.

  Attributes:
    memory: bytes.
    bandwidth: bytes/s to its memory.
    flops: floating-point operations a second, bfloat16.
    links: bytes/s to the devices beside it, one way.
  """

  memory: float
  bandwidth: float
  flops: float
  links: float


DEVICES = {
  "v4": Device(memory=32e9, bandwidth=1.2e12, flops=275e12, links=150e9),
  "v5e": Device(memory=16e9, bandwidth=819e9, flops=197e12, links=200e9),
  "v5p": Device(memory=95e9, bandwidth=2.765e12, flops=459e12, links=600e9),
  "v6e": Device(memory=32e9, bandwidth=1.64e12, flops=918e12, links=400e9),
  "a100": Device(memory=80e9, bandwidth=2.04e12, flops=312e12, links=300e9),
  "h100": Device(memory=80e9, bandwidth=3.35e12, flops=989e12, links=450e9),
  "h200": Device(memory=141e9, bandwidth=4.8e12, flops=989e12, links=450e9),
}
"""Google Cloud's pages on TPU versions, and NVIDIA's data sheets (SXM)."""

LATENCY = 10e-6
"""Seconds of a sum over devices beside what it moves: an assumption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
  """A model call.

  Attributes:
    texts: texts side by side.
    rows: new rows of each.
    slots: of each one's cache.
  """

  texts: int
  rows: int
  slots: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """Memory and work of a model call on one device.

  Attributes:
    params, cache: bytes in the device's memory.
    logits: bytes of the call's logits and of the arrays that the lemma
      computes from them.
    activations: bytes at the widest point of a layer.
    moved: bytes that go through the device's memory once.
    flops: operations.
    summed: bytes that each device brings to sums over `model`.
    sums: number of these sums.
  """

  params: int
  cache: int
  logits: int
  activations: int
  moved: int
  flops: int
  summed: int
  sums: int

  @property
  def memory(self) -> int:
    return self.params + self.cache + self.logits + self.activations

  def seconds(self, device: Device, model: int) -> dict[str, float]:
    """Time of memory, products, and sums over `model` devices."""
    ring = 2 * (model - 1) / model
    return {
      "memory": self.moved / device.bandwidth,
      "products": self.flops / device.flops,
      "sums": (self.summed * ring / device.links + self.sums * LATENCY)
      if model > 1
      else 0.0,
    }


def count(config: DecoderConfig) -> int:
  """How many parameters a decoder has."""
  return sum(map(math.prod, assemble.shapes_of(config).values()))


def budget(config: DecoderConfig, mesh: Mesh, dtype: str, call: Call) -> Budget:
  """Memory and work of a call on each device of a mesh, real or abstract."""
  width = jnp.dtype(dtype).itemsize
  params = products = 0
  for path, shape in assemble.shapes_of(config).items():
    where = sharding.of_param(config, mesh, path, len(shape))
    size = math.prod(where.shard_shape(shape))
    kind = decoder.param_dtype(path.split("/"), dtype)
    params += size * jnp.dtype(kind).itemsize
    if len(shape) == 2 and not path.startswith(("embed/", "position/")):
      products += size
  named = functools.partial(sharding.named, config, mesh, batch=call.texts)
  layers = len(config.layers)

  def share(names: tuple[str | None, ...], *shape: int) -> int:
    """Elements of one device's part."""
    return math.prod(named(names).shard_shape(shape))

  texts = share(("batch",), call.texts)
  slot = share(("kv_heads", None), config.kv_heads, config.head_dim)
  cache = texts * call.slots * (2 * layers * slot * width + 4)
  rows = texts * call.rows
  vocab = share(("vocab",), config.vocab_size)
  if config.tied:
    products += vocab * config.width
  heads = share(("heads",), config.heads)
  hidden = share(("mlp",), config.mlp_width)
  attention = 4 * rows * call.slots * heads * config.head_dim * layers
  return Budget(
    params=params,
    cache=cache,
    # The sums over tokens need all of a row.
    logits=4 * rows * (vocab + ROWS_AT_ONCE * config.vocab_size),
    activations=rows
    * (
      # The stream, before and after, and a block's inside.
      2 * config.width * 4 + max(2 * hidden * width, 2 * heads * call.slots * 4)
    ),
    moved=params + cache + 2 * 4 * rows * vocab,
    flops=2 * rows * products + attention,
    summed=(2 * layers + 1) * rows * config.width * width,
    sums=2 * layers + 1,
  )


def mesh_of(data: int, model: int) -> jax.sharding.AbstractMesh:
  """A mesh without devices."""
  return jax.sharding.AbstractMesh((data, model), ("data", "model"))
