"""Host: devices as a mesh with two axes, over which a model is laid out.

Texts are split over `data`. Heads, hidden units and the vocabulary are split
over `model`, so that each of its devices holds a part of every layer. XLA's
partitioner does the rest: no function here knows how many devices there are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from byteprob.errors import MeshError

AXES = ("data", "model")
"""The axes of every mesh."""


def make_mesh(
  shape: Mapping[str, int] | str, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over devices.

  Args:
    shape: the size of each axis, as `{"data": 2, "model": 4}` or
      `"data:2,model:4"`; an axis that is not named has size 1.
    devices: what it is made of, the first ones if there are too many.
      Default: those of this process or, where they are too few, all that the
      job has.

  Raises:
    MeshError: an axis is unknown, a size makes no sense, or there are too few
      devices.
  """
  sizes = parse(shape) if isinstance(shape, str) else dict(shape)
  unknown = [name for name in sizes if name not in AXES]
  if unknown or any(type(n) is not int or n < 1 for n in sizes.values()):
    raise MeshError(
      f"A mesh has the axes {' and '.join(AXES)}, each of a size of at least"
      f" 1, as in data:2,model:4; not {shape!r}."
    )
  counts = tuple(sizes.get(name, 1) for name in AXES)
  wanted = math.prod(counts)
  if devices is None:
    devices = jax.local_devices()
    if wanted > len(devices):
      devices = jax.devices()
  if wanted > len(devices):
    raise MeshError(
      f"The mesh {describe(counts)} takes {wanted} devices, and there are"
      f" {len(devices)} ({devices[0].device_kind}); make it smaller. (On a CPU"
      " JAX_NUM_CPU_DEVICES=8 makes eight of one.)"
    )
  return jax.make_mesh(
    counts, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[:wanted]
  )


def parse(text: str) -> dict[str, int]:
  """The sizes in `data:2,model:4`.

  Raises:
    MeshError: it is not of this form.
  """
  sizes = {}
  for part in text.split(","):
    name, colon, size = part.strip().partition(":")
    if not colon or not size.isdecimal() or name in sizes:
      raise MeshError(f"{text!r} is no mesh; write it as data:2,model:4.")
    sizes[name] = int(size)
  return sizes


def describe(sizes: Sequence[int] | Mesh) -> str:
  """A mesh as users write it."""
  if isinstance(sizes, Mesh):
    sizes = [sizes.shape[name] for name in AXES]
  return ",".join(
    f"{name}:{size}" for name, size in zip(AXES, sizes, strict=True)
  )


def replicate(params: Any, tree: Any) -> Any:
  """Arrays where a model's parameters are: whole, on each of its devices.

  Made for a tokenizer's tables: tens of megabytes, read an entry at a time
  all over, so that splitting them would cost more than it saves. While JAX
  traces parameters nobody knows where they are: arrays stay where they are.

  Args:
    params: a model's parameters, on a mesh or not.
    tree: arrays.
  """
  if any(map(_traced, jax.tree.leaves((params, tree)))):
    with jax.ensure_compile_time_eval():
      return jax.tree.map(
        lambda leaf: leaf if _traced(leaf) else jax.device_put(leaf), tree
      )
  mesh = _mesh_of(params)
  if mesh is None:
    # Not jnp.asarray, which compiles a program for each shape.
    return jax.device_put(tree)
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(params: Any, tree: Any, batch: int) -> Any:
  """Arrays of texts side by side, the texts over `data` if it divides them.

  Args:
    params: a model's parameters, on a mesh or not; then nothing is done.
    tree: arrays, the first axis of each a multiple of the batch; or scalars.
      What is split already, as a model's cache is, stays as it is.
    batch: number of texts.
  """
  mesh = _mesh_of(params)
  if mesh is None:
    return tree
  axis = None if batch % mesh.shape["data"] else "data"

  def put(leaf):
    if any(getattr(getattr(leaf, "sharding", None), "spec", ())):
      return leaf
    # What is empty would come out of a jitted function whole.
    axes = [axis] if leaf.ndim and leaf.size else []
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

  return jax.tree.map(put, tree)


def _traced(leaf) -> bool:
  return isinstance(leaf, jax.core.Tracer)


def _mesh_of(params: Any) -> Mesh | None:
  leaf = next(iter(jax.tree.leaves(params)), None)
  sharding = getattr(leaf, "sharding", None)
  return sharding.mesh if isinstance(sharding, NamedSharding) else None
