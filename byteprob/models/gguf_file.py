"""Host: the metadata and tensor table of a GGUF file, every number checked.

The file may be anything: no count, size or offset in it is believed before it
is compared with the file's length, so a broken or hostile header fails at
once and allocates nothing. (The gguf package's own reader trusts them, and
takes 10 s for the vocabulary of Gemma 3.)
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from byteprob import errors

# Imported where a tensor is read: who reads none has no use for it.
if TYPE_CHECKING:
  import gguf

_ARRAY, _STRING, _BOOL = 9, 8, 7
_SCALARS = {
  0: np.dtype("u1"),
  1: np.dtype("i1"),
  2: np.dtype("<u2"),
  3: np.dtype("<i2"),
  4: np.dtype("<u4"),
  5: np.dtype("<i4"),
  6: np.dtype("<f4"),
  _BOOL: np.dtype("?"),
  10: np.dtype("<u8"),
  11: np.dtype("<i8"),
  12: np.dtype("<f8"),
}
# fmt: off
_KNOWN = (
  "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
  "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)
# fmt: on
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
# After the magic and the version.
_TENSOR_COUNT = slice(8, 16)
# The least bytes that one entry can take: of metadata, of the tensor table.
_LEAST_PAIR = 8 + 4 + 1
_LEAST_TENSOR = 8 + 4 + 4 + 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufTensor:
  """One tensor, not read yet.

  Attributes:
    shape: rows first, as NumPy has it (GGUF has it the other way round).
    kind: how its numbers are stored.
    data: its bytes `uint8[n]`, a view of the file.
  """

  shape: tuple[int, ...]
  kind: "gguf.GGMLQuantizationType"
  data: np.ndarray

  def read(self) -> np.ndarray:
    """The numbers, `float32` in `shape`; may be a view of the file."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[self.kind]
    if self.kind == gguf.GGMLQuantizationType.F32:
      return self.data.view("<f4").reshape(self.shape)
    if self.kind == gguf.GGMLQuantizationType.F16:
      return self.data.view("<f2").reshape(self.shape).astype(np.float32)
    row = self.shape[-1] // block * size
    rows = self.data.reshape(*self.shape[:-1], row)
    return gguf.quants.dequantize(rows, self.kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufFile:
  """A GGUF file's header.

  Attributes:
    metadata: by key; strings are `str`, arrays of strings lists of `str`,
      arrays of numbers NumPy arrays, and the rest Python's scalars.
    tensors: by name.
  """

  metadata: dict[str, Any]
  tensors: dict[str, GgufTensor]


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
  """Reads the header of a GGUF file (versions 2 and 3, little-endian).

  Raises:
    CheckpointError: it is not there, not GGUF, cut short, or contradicts
      itself.
  """
  with _opened(path) as cursor:
    return cursor.file()


def read_metadata_alone(path: str | os.PathLike[str]) -> bytes:
  """The metadata of a GGUF file, as a GGUF file without tensors.

  Raises:
    CheckpointError: as `read_gguf`, of the metadata.
  """
  with _opened(path) as cursor:
    return cursor.without_tensors()


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator["_Cursor"]:
  """A file from its start; what is wrong with it is told with its name."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.CheckpointError(f"{path} is missing: name a GGUF file")
  if not path.stat().st_size:
    raise errors.CheckpointError(f"{path} is empty; fetch it again")
  try:
    # As a plain array, of which slices are cheaper than of a memmap.
    yield _Cursor(np.asarray(np.memmap(path, np.uint8, "r")))
  except _BrokenError as error:
    raise errors.CheckpointError(f"{path}: {error}; fetch it again") from error
  except _UnsupportedError as error:
    raise errors.CheckpointError(f"{path}: {error}; convert it") from error


class _BrokenError(Exception):
  """Raised for a broken header; says what is wrong with it."""


class _UnsupportedError(Exception):
  """Raised for a feature of the file that this reader does not know."""


class _Cursor:
  """Reads a header front to back."""

  def __init__(self, data: np.ndarray):
    self._data = data
    self._at = 0

  def file(self) -> GgufFile:
    tensor_count, metadata = self._metadata()
    table = [self._tensor_entry() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
      raise _BrokenError("general.alignment is not a size")
    start = -(-self._at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in table:
      if name in tensors:
        raise _BrokenError(f"it has the tensor {name!r} twice")
      tensors[name] = self._tensor(name, shape, kind, start + offset)
    return GgufFile(metadata=metadata, tensors=tensors)

  def without_tensors(self) -> bytes:
    self._metadata()
    head = bytearray(self._data[: self._at])
    head[_TENSOR_COUNT] = bytes(8)
    return bytes(head)

  def _metadata(self) -> tuple[int, dict[str, Any]]:
    """The number of tensors, and the metadata."""
    if bytes(self._take(4)) != b"GGUF":
      raise _BrokenError("it is not a GGUF file")
    version = self._integer("<I")
    if version not in _VERSIONS:
      if version & 0xFFFF == 0:
        raise _UnsupportedError("it is big-endian, want little-endian")
      raise _UnsupportedError(f"it has GGUF version {version}, want 2 or 3")
    tensor_count = self._count(_LEAST_TENSOR)
    pair_count = self._count(_LEAST_PAIR)
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
      key = self._string()
      if key in metadata:
        raise _BrokenError(f"it has the key {key!r} twice")
      metadata[key] = self._value(self._integer("<I"))
    return tensor_count, metadata

  def _take(self, size: int) -> np.ndarray:
    end = self._at + size
    if end > len(self._data):
      raise _BrokenError("its header is cut short")
    part = self._data[self._at : end]
    self._at = end
    return part

  def _integer(self, form: str) -> int:
    return struct.unpack(form, self._take(struct.calcsize(form)))[0]

  def _count(self, least: int) -> int:
    """How many entries, of at least `least` bytes each, follow."""
    count = self._integer("<Q")
    if count * least > len(self._data):
      raise _BrokenError(f"its header claims {count} entries, more than fit")
    return count

  def _string(self) -> str:
    size = self._integer("<Q")
    try:
      return bytes(self._take(size)).decode("utf-8")
    except UnicodeDecodeError as error:
      raise _BrokenError("a string in its header is not UTF-8") from error

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._string()
    if kind in _SCALARS:
      return self._numbers(kind, 1).item()
    if kind != _ARRAY:
      raise _BrokenError(f"its header has a value of unknown type {kind}")
    kind = self._integer("<I")
    if kind == _STRING:
      return [self._string() for _ in range(self._count(8))]
    if kind in _SCALARS:
      return self._numbers(kind, self._count(_SCALARS[kind].itemsize))
    raise _BrokenError(f"its header has an array of type {kind}")

  def _numbers(self, kind: int, count: int) -> np.ndarray:
    dtype = _SCALARS[kind]
    part = self._take(count * dtype.itemsize)
    if kind == _BOOL:
      return part != 0
    # A copy: the view may not be aligned, and should not keep the file open.
    return part.view(dtype).copy()

  def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
    name = self._string()
    rank = self._integer("<I")
    if rank > _MOST_DIMENSIONS:
      raise _BrokenError(f"tensor {name!r} has {rank} dimensions")
    shape = tuple(self._integer("<Q") for _ in range(rank))
    return name, shape[::-1], self._integer("<I"), self._integer("<Q")

  def _tensor(
    self, name: str, shape: tuple[int, ...], kind: int, start: int
  ) -> GgufTensor:
    import gguf

    kinds = {int(kind): kind for kind in gguf.GGMLQuantizationType}
    stored = kinds[kind].name if kind in kinds else f"type {kind}"
    if stored not in _KNOWN:
      raise _UnsupportedError(
        f"tensor {name!r} is stored as {stored}, want one of"
        f" {', '.join(_KNOWN)}"
      )
    block, size = gguf.GGML_QUANT_SIZES[kinds[kind]]
    if not shape or shape[-1] % block:
      raise _BrokenError(f"tensor {name!r} has rows that are not whole blocks")
    # Python's integers: a product of sizes cannot wrap around.
    end = start + math.prod(shape) // block * size
    if end > len(self._data):
      raise _BrokenError(
        f"tensor {name!r} ends at byte {end} of {len(self._data)}"
      )
    return GgufTensor(shape=shape, kind=kinds[kind], data=self._data[start:end])
