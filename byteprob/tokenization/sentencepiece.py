"""Host: a SentencePiece `.model` as a `TokenizerSpec`.

The file is one protocol buffer (`sentencepiece_model.proto`); the few fields
that matter are read here, every length checked against what is there.
"""

import os
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from byteprob.errors import CheckpointError, UnsupportedTokenizerError
from byteprob.tokenization import pieces
from byteprob.tokenization.spec import TokenizerSpec

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_UNIGRAM, _BPE = 1, 2


def read(path: str | os.PathLike[str]) -> TokenizerSpec:
  """Reads a SentencePiece model.

  Raises:
    CheckpointError: the file is missing or broken.
    UnsupportedTokenizerError: a component cannot be compiled exactly.
  """
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise CheckpointError(
      f"{path} cannot be read: {error.strerror}."
    ) from error
  try:
    return _specification(data)
  except (_BrokenError, UnicodeDecodeError, struct.error) as error:
    raise CheckpointError(
      f"{path} is not a SentencePiece model: {error}; fetch it again."
    ) from error


class _BrokenError(Exception):
  """Raised for a broken file; says what is wrong with it."""


def _specification(data: bytes) -> TokenizerSpec:
  tokens, scores, kinds = [], [], []
  trainer: dict[int, object] = {}
  normalizer: dict[int, object] = {}
  for number, value in _fields(data):
    if number == 1:
      piece = dict(_fields(_message(value)))
      tokens.append(_message(piece.get(1, b"")).decode("utf-8"))
      scores.append(_float(piece.get(2, b"\0\0\0\0")))
      kinds.append(piece.get(3, _NORMAL))
    elif number == 2:
      trainer = dict(_fields(_message(value)))
    elif number == 3:
      normalizer = dict(_fields(_message(value)))
  if not tokens:
    raise _BrokenError("it has no pieces")
  _check(trainer, normalizer)
  kind = np.array(kinds)
  if (kind == _UNUSED).any():
    raise _unsupported("unused pieces")
  special = {
    tokens[id_]: int(id_)
    for id_ in np.flatnonzero((kind == _CONTROL) | (kind == _UNKNOWN))
  }
  ids = dict(zip(("unk", "bos", "eos"), (40, 41, 42), strict=True))
  default = {"unk": 0, "bos": 1, "eos": 2}

  def named(name: str) -> tuple[int, ...]:
    # Ids are signed; -1, "there is none", is a varint of ten bytes.
    id_ = trainer.get(ids[name], default[name])
    there = id_ < len(tokens) and kinds[id_] == _CONTROL
    return (id_,) if there else ()

  make = {
    _BPE: pieces.bpe_from_scores,
    _UNIGRAM: pieces.unigram_from_scores,
  }[trainer.get(3, _UNIGRAM)]
  return make(
    tokens,
    np.array(scores, np.float64),
    normal=kind == _NORMAL,
    user_defined=kind == _USER_DEFINED,
    byte=kind == _BYTE,
    prefix=bool(normalizer.get(3, 1)),
    special=special,
    start=named("bos"),
    end=named("eos"),
  )


def _check(trainer, normalizer) -> None:
  """Refuses what cannot be compiled exactly."""
  if trainer.get(3, _UNIGRAM) not in (_BPE, _UNIGRAM):
    raise _unsupported("neither a BPE nor a unigram model")
  if trainer.get(24, 0):
    raise _unsupported("white space at the end of words")
  if normalizer.get(2) or normalizer.get(6):
    name = _message(normalizer.get(1, b"?")).decode("utf-8", "replace")
    raise _unsupported(f"the normalizer {name!r}")
  if normalizer.get(4, 1):
    raise _unsupported("the normalizer that removes extra white space")
  if not normalizer.get(5, 1):
    raise _unsupported("spaces that are not escaped")


def _unsupported(what: str) -> UnsupportedTokenizerError:
  return UnsupportedTokenizerError(
    f"This SentencePiece model has {what}, which byteprob cannot compile"
    " exactly."
  )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
  """`(number, value)` of each field of a protocol buffer message."""
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    match tag & 7:
      case 0:
        value, at = _varint(data, at)
      case 1:
        value, at = _slice(data, at, 8)
      case 2:
        size, at = _varint(data, at)
        value, at = _slice(data, at, size)
      case 5:
        value, at = _slice(data, at, 4)
      case wire:
        raise _BrokenError(f"a field has the unknown type {wire}")
    yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 70, 7):
    if at >= len(data):
      raise _BrokenError("it is cut short")
    byte = data[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
  raise _BrokenError("a number in it never ends")


def _slice(data: bytes, at: int, size: int) -> tuple[bytes, int]:
  if at + size > len(data):
    raise _BrokenError("it is cut short")
  return data[at : at + size], at + size


def _message(value) -> bytes:
  if not isinstance(value, bytes):
    raise _BrokenError("a field has the wrong type")
  return value


def _float(value) -> float:
  return struct.unpack("<f", _message(value))[0]
