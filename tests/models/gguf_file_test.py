"""Host: broken and hostile GGUF headers fail at once, and say why."""

import struct
import time
import tracemalloc

import numpy as np
import pytest

from byteprob import errors
from byteprob.models import gguf_file

_U32, _F32, _STRING, _ARRAY, _U64 = 4, 6, 8, 9, 10
_KIND_F32, _KIND_Q8_0, _KIND_IQ4_NL = 0, 8, 20
_HUGE = 2**60


def _text(value, size=None):
  value = value if isinstance(value, bytes) else value.encode()
  return struct.pack("<Q", len(value) if size is None else size) + value


def _pair(key, kind, data):
  return _text(key) + struct.pack("<I", kind) + data


def _array(kind, count, data=b""):
  return struct.pack("<IQ", kind, count) + data


def _tensor(name="x", shape=(4,), kind=_KIND_F32, offset=0):
  return (
    _text(name)
    + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    + struct.pack("<IQ", kind, offset)
  )


def _file(pairs=(), tensors=(), data=bytes(64), version=3, counts=None):
  tensor_count, pair_count = counts or (len(tensors), len(pairs))
  head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count)
  head += b"".join(pairs) + b"".join(tensors)
  return head + bytes(-len(head) % 32) + data


def _read(tmp_path, content):
  path = tmp_path / "x.gguf"
  path.write_bytes(content)
  return gguf_file.read_gguf(path)


_GOOD = _file(
  [
    _pair("a", _STRING, _text("né")),
    _pair("b", _ARRAY, _array(_STRING, 2, _text("x") + _text(""))),
    _pair("c", _ARRAY, _array(_U32, 3, struct.pack("<3I", 1, 2, 3))),
    _pair("d", _U64, struct.pack("<Q", 2**63)),
  ],
  [_tensor(shape=(2, 3), offset=32)],
  bytes(32) + np.arange(6, dtype="<f4").tobytes(),
)


def test_reads_what_is_there(tmp_path):
  file = _read(tmp_path, _GOOD)
  assert file.metadata["a"] == "né"
  assert file.metadata["b"] == ["x", ""]
  np.testing.assert_array_equal(file.metadata["c"], [1, 2, 3])
  assert file.metadata["d"] == 2**63
  want = [[0, 1], [2, 3], [4, 5]]
  np.testing.assert_array_equal(file.tensors["x"].read(), want)


def test_alignment_may_be_declared(tmp_path):
  pair = _pair("general.alignment", _U32, struct.pack("<I", 128))
  content = _file([pair], [_tensor(shape=(2,))], b"")
  content += bytes(-len(content) % 128) + np.asarray([7, 8], "<f4").tobytes()
  file = _read(tmp_path, content)
  np.testing.assert_array_equal(file.tensors["x"].read(), [7, 8])


def test_every_cut_is_noticed(tmp_path):
  for end in range(len(_GOOD)):
    with pytest.raises(errors.CheckpointError, match=r"x\.gguf"):
      _read(tmp_path, _GOOD[:end])


def _bad(message, *args, **kwargs):
  return pytest.param(_file(*args, **kwargs), message, id=message)


_U32_PAIR = _pair("a", _U32, bytes(4))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    pytest.param(b"PK\3\4" + bytes(60), "not a GGUF file", id="magic"),
    _bad("GGUF version 1", version=1),
    _bad("big-endian", version=3 << 24),
    _bad(f"claims {_HUGE} entries", counts=(_HUGE, 0)),
    _bad(f"claims {2**64 - 1} entries", counts=(0, 2**64 - 1)),
    _bad("header is cut short", [_text("key", size=_HUGE)]),
    _bad("cut short", [_pair("a", _STRING, _text("x", size=2**63))]),
    _bad("claims 72057594037927936", [_pair("a", 9, _array(_U32, 2**56))]),
    _bad("claims 36028797018963968", [_pair("a", 9, _array(_STRING, 2**55))]),
    _bad("not UTF-8", [_pair("a", _STRING, _text(b"\xff"))]),
    _bad("unknown type 99", [_pair("a", 99, b"")]),
    _bad("array of type 9", [_pair("a", _ARRAY, _array(_ARRAY, 1))]),
    _bad("the key 'a' twice", [_U32_PAIR, _U32_PAIR]),
    _bad("the tensor 'x' twice", [], [_tensor(), _tensor()]),
    _bad("has 1000 dimensions", [], [_tensor(shape=(1,) * 1000)]),
    _bad("not whole blocks", [], [_tensor(shape=())]),
    _bad("not whole blocks", [], [_tensor(shape=(33,), kind=_KIND_Q8_0)]),
    _bad("is stored as IQ4_NL", [], [_tensor(shape=(32,), kind=_KIND_IQ4_NL)]),
    _bad("is stored as type 77", [], [_tensor(kind=77)]),
    _bad("'x' ends at byte", [], [_tensor(shape=(2**40,))]),
    # As 64-bit numbers, these products are 0.
    _bad("ends at", [], [_tensor(shape=(2**32, 2**32))]),
    _bad("ends at byte 18446744073709551695", [], [_tensor(offset=2**64 - 1)]),
    _bad(
      "general.alignment",
      [_pair("general.alignment", _U32, bytes(4))],
      [_tensor()],
    ),
    _bad(
      "general.alignment is",
      [_pair("general.alignment", _F32, bytes(4))],
      [_tensor()],
    ),
  ],
)
def test_refuses_headers_at_once(content, message, tmp_path):
  start = time.monotonic()
  tracemalloc.start()
  try:
    with pytest.raises(errors.CheckpointError) as caught:
      _read(tmp_path, content)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert message in str(caught.value)
  assert str(tmp_path / "x.gguf") in str(caught.value)
  assert peak < 1 << 20
  assert time.monotonic() - start < 1


def test_refuses_what_is_no_file(tmp_path):
  with pytest.raises(errors.CheckpointError, match="is missing"):
    gguf_file.read_gguf(tmp_path / "x.gguf")
  with pytest.raises(errors.CheckpointError, match="is missing"):
    gguf_file.read_gguf(tmp_path)
  with pytest.raises(errors.CheckpointError, match="is empty"):
    _read(tmp_path, b"")


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_alone_are_a_file_without_tensors(tmp_path, version):
  pairs = [
    _pair("a", _STRING, _text("é")),
    _pair("b", _ARRAY, _array(_U32, 3, struct.pack("<3I", 1, 2, 3))),
  ]
  content = _file(pairs, [_tensor("x"), _tensor("y")], version=version)
  whole = _read(tmp_path, content)
  assert len(whole.tensors) == 2
  alone = gguf_file.read_metadata_alone(tmp_path / "x.gguf")
  assert len(alone) < len(content) - 64
  found = _read(tmp_path, alone)
  assert not found.tensors
  assert found.metadata["a"] == whole.metadata["a"] == "é"
  np.testing.assert_array_equal(found.metadata["b"], [1, 2, 3])
  (tmp_path / "x.gguf").write_bytes(content[:40])
  with pytest.raises(errors.CheckpointError, match=r"header .*fetch it again"):
    gguf_file.read_metadata_alone(tmp_path / "x.gguf")
