"""Host: compiled tables on disk, as one safetensors file each."""

import dataclasses
import json
import os
import pathlib
import typing
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from byteprob import store
from byteprob.tokenization.tables import Info, Tables


def save(tables: Tables, path: str | os.PathLike[str]) -> None:
  """Writes tables, whole or not at all.

  Raises:
    OSError: the file cannot be written.
  """
  arrays: dict[str, np.ndarray] = {}
  static = _flatten(tables, "", arrays)
  data = safetensors.numpy.save(arrays, {"static": json.dumps(static)})
  with store.atomic_path(path) as part:
    part.write_bytes(data)


def restore(path: str | os.PathLike[str]) -> Tables | None:
  """Reads tables; None if there are none, or they are broken."""
  if not pathlib.Path(path).is_file():
    return None
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      static = json.loads((file.metadata() or {})["static"])
    return _rebuild(Tables, static, "", arrays)
  except (
    OSError,
    KeyError,
    TypeError,
    ValueError,
    safetensors.SafetensorError,
  ):
    return None


def _flatten(value, prefix: str, arrays: dict[str, np.ndarray]) -> Any:
  """Puts a dataclass's arrays into `arrays`; returns the rest as JSON."""
  rest: dict[str, Any] = {}
  for field in dataclasses.fields(value):
    part, name = getattr(value, field.name), prefix + field.name
    if isinstance(part, Info):
      rest[field.name] = dataclasses.asdict(part)
    elif dataclasses.is_dataclass(part):
      rest[field.name] = _flatten(part, name + ".", arrays)
    elif isinstance(part, tuple):
      rest[field.name] = [
        _flatten(each, f"{name}.{k}.", arrays) for k, each in enumerate(part)
      ]
    elif field.metadata.get("static") or part is None:
      rest[field.name] = part
    else:
      arrays[name] = np.asarray(part)
  return rest


def _rebuild(kind: type, static: dict[str, Any], prefix: str, arrays) -> Any:
  """The inverse of `_flatten`."""
  values: dict[str, Any] = {}
  for field in dataclasses.fields(kind):
    name = prefix + field.name
    if name in arrays:
      values[field.name] = arrays[name]
    elif field.type is Info:
      info = static[field.name]
      info = {key: _tuples(part) for key, part in info.items()}
      values[field.name] = Info(**info)
    elif isinstance(part := static[field.name], dict):
      values[field.name] = _rebuild(
        _inner(field.type), part, name + ".", arrays
      )
    elif isinstance(part, list):
      values[field.name] = tuple(
        _rebuild(_inner(field.type), each, f"{name}.{k}.", arrays)
        for k, each in enumerate(part)
      )
    else:
      values[field.name] = static[field.name]
  return kind(**values)


def _inner(annotation) -> type:
  """The dataclass in `X | None`, or in `tuple[X, ...]`."""
  (kind,) = (
    option
    for option in typing.get_args(annotation)
    if dataclasses.is_dataclass(option)
  )
  return kind


def _tuples(value):
  """JSON has no tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
