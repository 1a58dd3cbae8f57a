"""Host: a checkpoint of any format, by its path."""

import os
import pathlib

from jax.sharding import Mesh

from byteprob import errors
from byteprob.models import converted, decoder, gguf, hf, sharding
from byteprob.models.assemble import Dtype
from byteprob.models.config import DecoderConfig
from byteprob.models.info import CheckpointInfo
from byteprob.types import Model, Params


def load_model(
  path: str | os.PathLike[str],
  dtype: Dtype = "float32",
  mesh: Mesh | None = None,
) -> Model:
  """Reads a model from a directory or a GGUF file.

  Args:
    path: a directory with `config.json` and safetensors files (see `load_hf`)
      or of `byteprob.convert`, or a GGUF file (see `load_gguf`).
    dtype: of the parameters and the cache.
    mesh: where the parameters go, each device's part straight to it.

  Returns:
    The model, its parameters on the mesh or the default device.

  Raises:
    CheckpointError: there is nothing at `path`, or it cannot be loaded.
    MeshError: the mesh cannot split the model.
  """
  config, params = load_params(path, dtype, mesh)
  if mesh is not None:
    return sharding.make_model(config, params, mesh, dtype)
  return decoder.make_model(config, params, dtype)


def load_params(
  path: str | os.PathLike[str],
  dtype: Dtype = "float32",
  mesh: Mesh | None = None,
) -> tuple[DecoderConfig, Params]:
  """`load_model`, as a config and parameters for `decoder.extend`."""
  path = pathlib.Path(path)
  load = hf.load_hf if _is_directory(path) else gguf.load_gguf
  if converted.is_converted(path):
    load = converted.load
  return load(path, dtype, mesh)


def read_info(path: str | os.PathLike[str]) -> CheckpointInfo:
  """Reads what a checkpoint says about its special tokens, not its weights.

  Raises:
    CheckpointError: as `load_model`, of the headers.
  """
  path = pathlib.Path(path)
  if (path / "tokenizer.gguf").is_file():
    path /= "tokenizer.gguf"
  if _is_directory(path):
    return hf.read_hf_info(path)
  return gguf.read_gguf_info(path)


def _is_directory(path: pathlib.Path) -> bool:
  if path.is_dir():
    return True
  if path.is_file() and path.suffix != ".safetensors":
    return False
  if path.is_file():
    raise errors.CheckpointError(
      f"{path} is weights alone: name its directory, with config.json"
    )
  raise errors.CheckpointError(
    f"there is nothing at {path}: name a directory with config.json and "
    "safetensors files, or a GGUF file"
  )
