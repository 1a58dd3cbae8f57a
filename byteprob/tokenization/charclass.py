"""Host: which characters an atom of a pre-tokenizer holds.

The tokenizer library's own Unicode tables are the law (Python's differ), so
membership is asked of the library, for every code point, and never looked up
elsewhere. Characters that no atom tells apart are one class.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from byteprob.errors import UnsupportedTokenizerError

CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)
_CHUNK = 8192

# Escapes are as `regex` writes them.
_LITERAL = re.compile(r"[^\\.]|\\x[0-9A-F]{2}", re.DOTALL)
_FOLDED = re.compile(r"\(\?i:([A-Za-z]|\\x[0-9A-F]{2})\)")

DIGITS = "Digits"
"""The atom of the pre-tokenizer `Digits`; not the same as `\\p{N}`."""

PUNCTUATION = "Punctuation"
"""The atom of the pre-tokenizer `Punctuation`."""


@functools.lru_cache(maxsize=256)
def members(source: str) -> np.ndarray:
  """The characters that an atom holds.

  Args:
    source: an atom in the library's regular expression syntax, or `DIGITS`,
      or `PUNCTUATION`.

  Returns:
    `bool[0x110000]` by code point; surrogates are not characters.

  Raises:
    UnsupportedTokenizerError: the library does not understand the atom.
  """
  if source == DIGITS:
    held = _isolated(pre_tokenizers.Digits(individual_digits=True))
  elif source == PUNCTUATION:
    held = _isolated(pre_tokenizers.Punctuation("isolated"))
  elif _LITERAL.fullmatch(source):
    held = np.zeros(CODE_POINTS, bool)
    held[_literal(source)] = True
  elif folded := _FOLDED.fullmatch(source):
    # A folded letter is among the folded letters: ask about those few.
    letters = np.flatnonzero(members("(?i:[a-z])")).tolist()
    among = sorted({*letters, _literal(folded[1])})
    held = _matched(source, among)
  else:
    held = _matched(source)
  held.flags.writeable = False
  return held


def _literal(source: str) -> int:
  """Code point of an atom that is one plain or escaped character."""
  if len(source) == 1:
    return ord(source)
  return int(source[2:], 16)


def _chunks(points=None):
  if points is None:
    points = np.delete(np.arange(CODE_POINTS), SURROGATES)
  points = np.asarray(points)
  for start in range(0, len(points), _CHUNK):
    yield points[start : start + _CHUNK]


def _matched(source: str, among: Sequence[int] | None = None) -> np.ndarray:
  try:
    split = pre_tokenizers.Split(tokenizers.Regex(source), "removed")
  except Exception as error:  # the library raises bare Exception
    raise UnsupportedTokenizerError(
      f"The tokenizer library does not understand {source!r}: {error}"
    ) from error
  held = np.zeros(CODE_POINTS, bool)
  for points in _chunks(among):
    inside = np.ones(len(points), bool)
    text = "".join(map(chr, points))
    for _, (start, stop) in split.pre_tokenize_str(text):
      inside[start:stop] = False
    held[points] = inside
  return held


def _isolated(splitter) -> np.ndarray:
  """Characters that stand alone when set between letters."""
  held = np.zeros(CODE_POINTS, bool)
  for points in _chunks():
    alone = np.zeros(2 * len(points) + 1, bool)
    text = "a" + "".join(chr(point) + "a" for point in points)
    for _, (start, stop) in splitter.pre_tokenize_str(text):
      if stop == start + 1:
        alone[start] = True
    held[points] = alone[1::2]
  return held


def classify(
  sources: Iterable[str], characters: Iterable[str] = ()
) -> tuple[np.ndarray, dict[str, frozenset[int]]]:
  """Sorts all characters into classes.

  Args:
    sources: the atoms that must be told apart.
    characters: single characters that each get a class of their own.

  Returns:
    `int32[0x110000]` the class of each code point, -1 for surrogates; and the
    classes of each atom.
  """
  sources = sorted(set(sources))
  singles = np.array(sorted({ord(c) for c in characters}), np.int64)
  label = np.zeros(CODE_POINTS, np.int64)
  for source in sources:
    label = _numbered(2 * label + members(source))
  label[singles] = label.max() + 1 + np.arange(len(singles))
  label[SURROGATES] = -1
  label = (_numbered(label + 1) - 1).astype(np.int32)
  one = first_of_each(label)
  held = {
    source: frozenset(np.flatnonzero(members(source)[one]).tolist())
    for source in sources
  }
  return label, held


def _numbered(label: np.ndarray) -> np.ndarray:
  """The same labels, numbered from 0 without gaps, in their order."""
  there = np.bincount(label) > 0
  return (np.cumsum(there) - 1)[label]


def first_of_each(label: np.ndarray) -> np.ndarray:
  """The first code point of each class."""
  classes, first = np.unique(label, return_index=True)
  return first[classes >= 0]


def class_names(label: np.ndarray) -> Sequence[str]:
  """A character of each class, for reading."""
  return [chr(point) for point in first_of_each(label)]
