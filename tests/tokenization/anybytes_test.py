"""Host: byte-level tokenizers over any bytes, against an encoder in Python.

No library encodes bytes that are not UTF-8, so the encoder is written down
here: a byte that is part of no character is a character of its own, cut where
the tokenizers library would cut U+FFFD; then the pieces' bytes are merged.
"""

import functools
import itertools
import random

import fakes
import numpy as np
import oracle
import pytest
import tokenizers_zoo as zoo
from benches import close
from tokenizers import Regex, pre_tokenizers

from byteprob import lm
from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import compile_tables, huggingface

ATOMS = (0x0A, 0x20, 0x61, 0x80, 0x81, 0xE3)
"""A letter, white space, and what U+3000, U+3001 and U+3041 are made of."""

MERGES = (
  (b"\xe3", b"\x80"), (b"\x80", b"\x81"), (b"a", b"\xe3"), (b" ", b" "),
  (b"\n", b"\n"), (b" ", b"a"), (b"\x80", b"\x80"), (b"\xe3\x80", b"\x80"),
  (b"\x81", b"a"), (b" ", b"\x80"), (b"a", b"a"), (b" ", b"\xe3\x80"),
)  # fmt: skip
PATTERNS = {"gpt2": zoo.GPT2, "llama3": zoo.LLAMA3}
BATCH = 16


def characters(data: bytes) -> list[bytes]:
  """The characters of a text, and its bytes that are part of none."""
  found = []
  while data:
    for size in (1, 2, 3, 4):
      try:
        data[:size].decode()
      except UnicodeDecodeError:
        continue
      break
    else:
      size = 1
    found.append(data[:size])
    data = data[size:]
  return found


def shown(char: bytes) -> str:
  return char.decode("utf-8", "replace")[0]


def encoder(pattern: str, vocab: dict[bytes, int]):
  """Encodes any bytes."""
  split = pre_tokenizers.Split(Regex(pattern), "isolated")
  rank = {pair: at for at, pair in enumerate(MERGES)}

  @functools.cache
  def merged(piece: bytes) -> oracle.Node:
    parts = [bytes([byte]) for byte in piece]
    while True:
      pairs = list(itertools.pairwise(parts))
      best = min((rank[pair] for pair in pairs if pair in rank), default=None)
      if best is None:
        return tuple(vocab[part] for part in parts)
      at = pairs.index(MERGES[best])
      parts[at : at + 2] = [b"".join(pairs[at])]

  def encode(texts: list[bytes]) -> list[oracle.Node]:
    found = []
    for data in texts:
      chars = characters(data)
      pieces = split.pre_tokenize_str("".join(map(shown, chars)))
      ids: oracle.Node = ()
      for _, (start, stop) in pieces:
        ids += merged(b"".join(chars[start:stop]))
      found.append(ids)
    return found

  return encode


class Bytes(oracle.Oracle):
  """An oracle whose texts are bytes."""

  def texts(self, working):
    """See `Oracle`."""
    return [working]

  def _probes(self, working):
    for size in range(4):
      for tail in itertools.product(ATOMS, repeat=size):
        yield working + bytes(tail)


@functools.cache
def case(name: str):
  """A tokenizer: its entry, its law over any bytes, and a model."""
  entry = zoo.byte_level(
    ("a", " ", "\n"), MERGES, zoo._split(PATTERNS[name]), atoms=ATOMS
  )
  vocab = {piece: k for k, piece in enumerate(entry.spelled) if piece}
  encode = encoder(PATTERNS[name], vocab)
  truth = Bytes(encode, entry.spelled, ("a",), ahead=0, ends=entry.ends)
  configs = {"bos": list(entry.start), "eos": list(entry.ends)}
  spec = huggingface.from_json(entry.json, configs)
  tables = compile_tables(spec, key=f"any {name}", utf8_mode="any")
  model, logits = fakes.model(spec.size, seed=3)
  reference = oracle.Reference(truth, logits, entry.start)
  return entry, truth, reference, lm.ByteLM(model, tables)


def texts(count: int, longest: int) -> list[bytes]:
  rng = random.Random(count)
  found = {b"", b"\xe3", b"a\xe3\x80", b"  \xe3\x80\x80", b"\x80\x81 \n"}
  while len(found) < count:
    size = rng.randint(1, longest)
    found.add(bytes(rng.choices(ATOMS, (1, 2, 2, 3, 2, 3), k=size)))
  return sorted(found)


@pytest.mark.parametrize("name", PATTERNS)
def test_on_utf8_it_is_the_librarys_own(name):
  """The encoder that is written down here, where there is another."""
  entry, truth, _, model = case(name)
  rng = random.Random(0)
  chars = [char.encode() for char in ("a", " ", "\n", "\u3000", "\u3001")]
  whole = [
    b"".join(rng.choices([*chars, "\u3041".encode()], k=rng.randint(1, 5)))
    for _ in range(200)
  ]
  own = entry.encode([text.decode() for text in whole])
  assert truth.encode(whole) == own
  for text, ids in list(zip(whole, own, strict=True))[::25]:
    assert model.encode(text) == (*entry.start, *ids)


@pytest.mark.parametrize("name", PATTERNS)
def test_next_bytes_are_those_of_the_brute_force(name):
  _, _, reference, model = case(name)
  some = texts(BATCH, 6)
  rows = model.next_byte_logprobs_batch(some)
  for text, row in zip(some, rows, strict=True):
    close(row, reference.next(text), 2e-5)
    assert abs(np.logaddexp.reduce(row.astype(np.float64))) < 1e-5


@pytest.mark.parametrize("name", PATTERNS)
def test_any_text_is_encoded(name):
  entry, truth, _, model = case(name)
  for text in texts(8, 12):
    (own,) = truth.encode([text])
    assert model.encode(text) == (*entry.start, *own)


def test_a_tokenizer_of_characters_has_no_such_mode():
  spec = huggingface.from_json(zoo.ZOO["metaspace_never"]().json)
  with pytest.raises(UnsupportedTokenizerError, match="spell every byte"):
    compile_tables(spec, key="", utf8_mode="any")
