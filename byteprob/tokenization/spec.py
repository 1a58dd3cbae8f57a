"""Host: what a tokenizer is, whatever file it came from.

Every reader (`huggingface`, `sentencepiece`, `gguf`) gives a `TokenizerSpec`;
`compile` turns it into `Tables`. A component that has no place here is an
error in the reader, by name.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from byteprob.tokenization import bpe

GPT2_SPLIT = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
  r"|\s+(?!\S)|\s+"
)
"""The split inside the library's `ByteLevel` pre-tokenizer."""

CONFIGS = ("generation_config.json", "config.json", "tokenizer_config.json")
"""The files beside a tokenizer.json that name its end tokens."""

SPACE = "▁"
"""Character for a space inside SentencePiece-like tokenizers (U+2581)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """One split of a pre-tokenizer.

  Attributes:
    pattern: a regular expression; or a text, if `literal`; or one of
      `charclass.DIGITS`, `charclass.PUNCTUATION`, if `named`.
    behavior: isolated, contiguous, merged_with_previous, merged_with_next, or
      removed (only with `invert`).
    invert: see the tokenizer library's `Split`.
  """

  pattern: str
  behavior: str = "isolated"
  invert: bool = False
  literal: bool = False
  named: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Added:
  """A token that is cut out of a text before anything else looks at it.

  Attributes:
    id: its token id.
    text: what it matches, in the working text (spaces are spaces).
    normalized: it is matched after the others, inside the normalized text.
  """

  id: int
  text: str
  normalized: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
  """A tokenizer, with nothing left to its file format.

  The *working text* is what the tokens spell: the text, normalized, in which
  a space is a space even where the tokenizer writes `SPACE`.

  Attributes:
    rule: how a piece becomes tokens: "bpe", "unigram" or "longest_match"
      (from the left).
    tokens: bytes of every id in the working text, None where an id spells
      nothing (special tokens, byte tokens of `fallback`, holes).
    char_level: tokens are whole characters (SentencePiece); else any bytes.
    fallback: `byte -> id` of the tokens that spell a character which no token
      holds, byte by byte; empty if there are none.
    merges: for "bpe".
    ignore_merges: a piece that is a token as a whole is that token.
    scores: for "unigram", by id.
    inside: for "longest_match": ids that stand anywhere but at the start of a
      piece, where the others stand; None if all stand everywhere.
    mark: for "longest_match": what the tokenizer's own vocabulary writes before
      the tokens of `inside`.
    splits: the pre-tokenizer, coarsest first.
    added: non-special added tokens.
    special: text of every special token -> id.
    nfc: the text is put in Unicode's normalization form C first.
    escapes_space: the pre-tokenizer sees `SPACE` for a space, and a `SPACE` in
      the text is taken for a space.
    prefix: "" or "always" or "unless_space": a space is put before the text
      (unless there is one).
    prefix_once: only before the text's first segment, not after each special
      token.
    start: ids that the tokenizer puts before every text (BOS).
    end: ids that mean the end of the text.
    size: number of ids, holes included.
  """

  rule: str
  tokens: tuple[bytes | None, ...]
  char_level: bool
  fallback: Mapping[int, int] = dataclasses.field(default_factory=dict)
  merges: bpe.Merges | None = None
  ignore_merges: bool = False
  scores: np.ndarray | None = None
  inside: frozenset[int] | None = None
  mark: bytes = b""
  splits: tuple[Split, ...] = ()
  added: tuple[Added, ...] = ()
  special: Mapping[str, int] = dataclasses.field(default_factory=dict)
  nfc: bool = False
  escapes_space: bool = False
  prefix: str = ""
  prefix_once: bool = False
  start: tuple[int, ...] = ()
  end: tuple[int, ...] = ()

  @property
  def size(self) -> int:
    return len(self.tokens)


@functools.cache
def byte_alphabet() -> dict[str, int]:
  """GPT-2's printable character for each byte: `character -> byte`.

  Printable Latin-1 stands for itself, the rest for U+0100 and on.
  """
  plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  table = {chr(byte): byte for byte in plain}
  others = [byte for byte in range(256) if byte not in set(plain)]
  return table | {chr(256 + k): byte for k, byte in enumerate(others)}
