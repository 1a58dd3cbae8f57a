"""Host: SentencePiece files that are broken, hostile or not supported."""

import random
import struct

import pytest
import tokenizers_zoo as zoo

from byteprob.errors import (
  ByteprobError,
  CheckpointError,
  UnsupportedTokenizerError,
)
from byteprob.tokenization import read_spec

PIECES = [
  ("<unk>", 0.0, zoo.UNKNOWN),
  ("<s>", 0.0, zoo.CONTROL),
  ("</s>", 0.0, zoo.CONTROL),
  ("a", -1.0, zoo.NORMAL),
  ("b", -2.0, zoo.NORMAL),
  ("ab", -3.0, zoo.NORMAL),
]


@pytest.fixture
def read(tmp_path):
  """Reads bytes as a file."""

  def read_(data: bytes):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(data)
    return read_spec(file)

  return read_


def test_what_is_whole_is_read(read):
  spec = read(zoo.sentencepiece_file(PIECES))
  assert spec.tokens == (None, None, None, b"a", b"b", b"ab")
  assert (spec.start, spec.end) == ((1,), (2,))


def _field(number: int, wire: int, payload: bytes) -> bytes:
  return zoo._varint(number << 3 | wire) + payload


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "it has no pieces"),
    (b"hello, I am no model", "is not a SentencePiece model"),
    # A piece of 2**60 bytes.
    (_field(1, 2, zoo._varint(2**60)), "cut short"),
    (_field(1, 2, b"\xff" * 9 + b"\x01"), "cut short"),
    (_field(1, 2, b"\xff" * 12), "a number in it never ends"),
    (_field(1, 2, b"\x80"), "cut short"),
    (_field(1, 1, b"1234"), "cut short"),
    (_field(1, 5, b"12"), "cut short"),
    (_field(1, 3, b""), "unknown type 3"),
    (_field(1, 7, b""), "unknown type 7"),
    # A number where a message should be.
    (_field(1, 0, b"\x05"), "wrong type"),
    (_field(2, 0, b"\x05"), "wrong type"),
    (zoo._field(1, _field(1, 0, b"\x05")), "wrong type"),
    (zoo._field(1, zoo._field(1, b"a") + _field(2, 0, b"\x01")), "wrong type"),
    (
      zoo._field(1, zoo._field(1, b"a") + _field(2, 1, b"12345678")),
      "is not a SentencePiece model",
    ),
    (zoo._field(1, zoo._field(1, b"\xff")), "is not a SentencePiece model"),
  ],
)
def test_broken_files_are_named(data, message, read, tmp_path):
  with pytest.raises(CheckpointError) as caught:
    read(data)
  assert message in str(caught.value)
  assert str(tmp_path) in str(caught.value)
  assert "fetch it again" in str(caught.value)


def test_every_cut_is_noticed_or_harmless(read):
  """A file that is cut at a field's end has lost settings only."""
  data = zoo.sentencepiece_file(PIECES, prefix=True, fallback=True)
  noticed = 0
  for size in range(len(data)):
    try:
      read(data[:size])
    except CheckpointError:
      noticed += 1
    except UnsupportedTokenizerError:
      pass
  assert noticed > 0.8 * len(data)


def test_noise_never_gets_further_than_an_error_of_ours(read):
  rng = random.Random(0)
  whole = zoo.sentencepiece_file(PIECES)
  for _ in range(300):
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
      data[rng.randrange(len(data))] = rng.randrange(256)
    try:
      read(bytes(data))
    except ByteprobError:
      continue


@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"rules": b"\0\0\0\0"}, "the normalizer 'identity'"),
    ({"extra_spaces": True}, "removes extra white space"),
    ({"escape": False}, "spaces that are not escaped"),
    ({"suffix": True}, "white space at the end of words"),
    ({"kind": 3}, "neither a BPE nor a unigram model"),
    ({"kind": 4}, "neither a BPE nor a unigram model"),
  ],
)
def test_what_is_not_known_is_refused_by_name(options, named, read):
  with pytest.raises(UnsupportedTokenizerError, match=named):
    read(zoo.sentencepiece_file(PIECES, **options))


def test_pieces_that_are_not_supported(read):
  with pytest.raises(UnsupportedTokenizerError, match="unused pieces"):
    read(zoo.sentencepiece_file([*PIECES, ("x", 0.0, zoo.UNUSED)]))
  user = [*PIECES, ("x", 0.0, zoo.USER_DEFINED)]
  with pytest.raises(UnsupportedTokenizerError, match="user-defined piece 'x'"):
    read(zoo.sentencepiece_file(user, prefix=True))
  few = [*PIECES, ("<0x41>", 0.0, zoo.BYTE)]
  with pytest.raises(UnsupportedTokenizerError, match="lacks 255 of"):
    read(zoo.sentencepiece_file(few))
  odd = [*PIECES, ("<0xZZ>", 0.0, zoo.BYTE)]
  with pytest.raises(CheckpointError, match="'<0xZZ>' names no byte"):
    read(zoo.sentencepiece_file(odd))


def test_a_negative_id_means_there_is_none(read):
  data = zoo.sentencepiece_file(PIECES)
  # The trainer's `bos_id` of -1, as protocol buffers write it.
  trainer = zoo._field(3, 2) + _field(41, 0, b"\xff" * 9 + b"\x01")
  spec = read(data + zoo._field(2, trainer))
  assert (spec.start, spec.end) == ((), (2,))


def test_scores_are_read_as_they_are(read):
  piece = zoo._field(1, b"a") + _field(2, 5, struct.pack("<f", -1.5))
  trainer = zoo._field(2, zoo._field(3, 1))
  normalizer = zoo._field(3, zoo._field(4, 0))
  spec = read(zoo._field(1, piece) + trainer + normalizer)
  assert spec.rule == "unigram" and spec.scores.tolist() == [-1.5]


def test_a_file_that_cannot_be_read(tmp_path):
  with pytest.raises(CheckpointError, match="cannot be read"):
    read_spec(tmp_path / "tokenizer.model")
