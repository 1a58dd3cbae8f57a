"""Host: parameters kept by Orbax as they are used, to be loaded at once.

A directory has, beside the tokenizer's files,

  byteprob.json   what the parameters are of; written last
  params/         the parameters

Reading it takes neither dequantizing nor transposing, and each device's part
is read by itself.
"""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from byteprob.errors import ByteprobError, CheckpointError
from byteprob.models import assemble, decoder, sharding
from byteprob.models.assemble import Dtype
from byteprob.models.config import DecoderConfig, Layer, Rope
from byteprob.types import Params

FORMAT = 1
"""Changes with the names or the layout of parameters."""

_ABOUT, _PARAMS = "byteprob.json", "params"
# Parts of a parameter that are read by themselves, for devices that need no
# other.
_CHUNK_BYTES = 32 << 20


def is_converted(path: pathlib.Path) -> bool:
  """Whether a path is a directory that `save` has written."""
  return (path / _ABOUT).is_file()


def save(
  directory: pathlib.Path, config: DecoderConfig, params: Params
) -> None:
  """Writes a model into a directory.

  Args:
    directory: where; it must be there.
    config: the decoder.
    params: its parameters.

  Raises:
    ByteprobError: Orbax is not installed.
    OSError: the directory cannot be written.
  """
  ocp = _orbax()
  chunks = jax.tree.map(
    lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), params
  )
  with _checkpointer(ocp) as checkpointer:
    checkpointer.save(
      directory.absolute() / _PARAMS, args=ocp.args.PyTreeSave(params, chunks)
    )
  about = {"format": FORMAT, "config": dataclasses.asdict(config)}
  (directory / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def load(
  directory: pathlib.Path,
  dtype: Dtype = "float32",
  mesh: Mesh | None = None,
) -> tuple[DecoderConfig, Params]:
  """Reads what `save` has written.

  Args:
    directory: where it is.
    dtype: of the parameters, whatever they are kept as; but for the norms'.
    mesh: where they go, each device's part straight to it.

  Raises:
    CheckpointError: the directory is broken, or of another version.
    MeshError: the mesh cannot split the model.
    ByteprobError: Orbax is not installed.
  """
  assemble.check_dtype(dtype)
  config = _read_about(directory / _ABOUT)
  if mesh is not None:
    sharding.check(config, mesh)
  shapes, target = assemble.shapes_of(config), {}
  for path, shape in shapes.items():
    kind = decoder.param_dtype(path.split("/"), jnp.dtype(dtype))
    if mesh is None:
      where = jnp.zeros(()).sharding
    else:
      where = sharding.of_param(config, mesh, path, len(shape))
    target[path] = jax.ShapeDtypeStruct(shape, kind, sharding=where)
  params = directory.absolute() / _PARAMS
  ocp = _orbax()
  largest = max(leaf.size * leaf.dtype.itemsize for leaf in target.values())
  try:
    with _checkpointer(ocp, mesh, largest) as checkpointer:
      if _kept(checkpointer, params) != shapes:
        raise CheckpointError("the shapes differ")
      tree = assemble.nest(target)
      how = ocp.checkpoint_utils.construct_restore_args(tree)
      args = ocp.args.PyTreeRestore(tree, restore_args=how)
      return config, checkpointer.restore(params, args=args)
  # Errors of Orbax and of TensorStore share no base.
  except Exception as error:
    said = str(error).strip().partition("\n")[0].partition(". ")[0]
    raise CheckpointError(
      f"{params} is not whole, or not of the model that {_ABOUT} says"
      f" ({said[:200] or type(error).__name__}); convert the model again"
    ) from error


def _kept(checkpointer: Any, params: pathlib.Path) -> dict[str, Any]:
  """The shapes of what is kept, by path."""
  found = checkpointer.metadata(params).item_metadata
  if found is None:
    raise CheckpointError("the list of its parameters cannot be read")
  return {
    "/".join(key.key for key in keys): tuple(leaf.shape)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(found.tree)
  }


def _orbax() -> types.ModuleType:
  try:
    import orbax.checkpoint
  except ImportError as error:
    raise ByteprobError(
      "converted models need Orbax: pip install orbax-checkpoint"
    ) from error
  return orbax.checkpoint


def _checkpointer(
  ocp: types.ModuleType, mesh: Mesh | None = None, largest: int = 0
) -> Any:
  """Orbax's, for the processes that have a part of a mesh and no others.

  Args:
    ocp: Orbax.
    mesh: the mesh, if any.
    largest: bytes of the largest parameter; not much more is on its way from
      the disk at once.
  """
  own = [jax.process_index()]
  if mesh is not None:
    own = [device.process_index for device in mesh.devices.flat]
  options = ocp.options.MultiprocessingOptions(
    primary_host=min(own), active_processes=set(own)
  )
  handler = ocp.PyTreeCheckpointHandler(
    # Saves 8 % of the disk, and costs two thirds of the time to load.
    use_compression=False,
    restore_concurrent_gb=1 + largest // 10**9,
    multiprocessing_options=options,
  )
  return ocp.Checkpointer(handler, multiprocessing_options=options)


def _read_about(path: pathlib.Path) -> DecoderConfig:
  """The decoder that a directory says it has.

  Raises:
    CheckpointError: what it says makes no sense.
  """
  try:
    about = json.loads(path.read_text())
    if about["format"] != FORMAT:
      raise CheckpointError(
        f"{path} has the format {about['format']!r}, and this version of"
        f" byteprob reads {FORMAT}; convert the model again"
      )
    return _read_config(about["config"])
  except CheckpointError:
    raise
  except (
    OSError,
    ArithmeticError,
    LookupError,
    ValueError,
    TypeError,
  ) as error:
    raise CheckpointError(
      f"{path} is not what byteprob.convert writes ({error!r}); convert the"
      " model again"
    ) from error


def _read_config(value: dict[str, Any]) -> DecoderConfig:
  layers = []
  for layer in value["layers"]:
    rope = layer["rope"]
    if rope is not None:
      rope = _typed(Rope, {**rope, "factors": tuple(rope["factors"])})
    layers.append(_typed(Layer, {**layer, "rope": rope}))
  return _typed(DecoderConfig, {**value, "layers": tuple(layers)})


def _typed(cls: type, values: dict[str, Any]) -> Any:
  """A dataclass, its fields of their types and its sizes above 0.

  Raises:
    TypeError: a field is unknown, is missing, or has another type.
    ValueError: the values contradict each other.
  """
  made = cls(**values)
  for field in dataclasses.fields(cls):
    value, kind = getattr(made, field.name), field.type
    if typing.get_origin(kind) is typing.Literal:
      fits = value in typing.get_args(kind)
    elif typing.get_origin(kind) is tuple:
      (inner, _) = typing.get_args(kind)
      fits = all(isinstance(one, inner) for one in value)
    elif kind is int:
      fits = type(value) is int and value > 0
    elif kind in (float, float | None):
      fits = isinstance(value, kind | int)
    else:
      fits = isinstance(value, kind)
    if not fits:
      raise TypeError(f"{field.name} is {value!r}")
  return made
