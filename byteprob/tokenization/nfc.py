"""Host: the texts that are in Unicode's normalization form C, as automata.

A tokenizer that normalizes only ever writes normalized text: after `e` the
combining acute never comes, since `é` would stand there. Two laws say which
texts these are, each an automaton of its own (together they would be ten times
as large): combining marks stand in ascending order of their classes; and no
mark, nor any other character, could be composed with the last starter (a
character of class 0) before it. A mark as high as another hides the starter
from it; and a composed starter is looked at without its own marks that are
higher than the one that comes, which goes before them.

The tokenizer library's own tables are asked; Python's may be of another
version. Python's only say where to look for composites.
"""

import functools
import itertools
import unicodedata
from typing import NamedTuple

import numpy as np
from tokenizers import normalizers

from byteprob.tokenization.byte_dfa import DEAD, CutDfa, minimize, unique_rows
from byteprob.tokenization.charclass import CODE_POINTS, SURROGATES

_NFC, _NFD = normalizers.NFC(), normalizers.NFD()


class _Facts(NamedTuple):
  """Unicode's facts.

  Attributes:
    stable: `bool[0x110000]` the character alone is normalized.
    rank: `int[0x110000]` combining class (0 for starters).
    pairs: `(first, second) -> composite` of all primary composites.
  """

  stable: np.ndarray
  rank: np.ndarray
  pairs: dict[tuple[int, int], int]


def _each(normalizer, texts: list[str]) -> list[str]:
  """Normalizes many texts at once; a line feed joins nothing."""
  found: list[str] = []
  for start in range(0, len(texts), 65536):
    part = "\n".join(texts[start : start + 65536])
    found += normalizer.normalize_str(part).split("\n")
  return found


@functools.cache
def _facts() -> _Facts:
  points = np.delete(np.arange(CODE_POINTS), SURROGATES)
  points = points[points != ord("\n")]
  chars = [chr(point) for point in points]
  normal = _each(_NFC, chars)
  stable = np.zeros(CODE_POINTS, bool)
  stable[points] = [a == b for a, b in zip(chars, normal, strict=True)]
  stable[ord("\n")] = True
  pairs = [
    tuple(int(part, 16) for part in parts)
    for point in points
    if len(parts := unicodedata.decomposition(chr(point)).split()) == 2
    and not parts[0].startswith("<")
  ]
  pairs += itertools.product(range(0x1100, 0x1113), range(0x1161, 0x1176))
  pairs += itertools.product(range(0xAC00, 0xD7A4, 28), range(0x11A8, 0x11C3))
  joined = _each(_NFC, [chr(a) + chr(b) for a, b in pairs])
  return _Facts(
    stable=stable,
    rank=_ranks(points, chars),
    pairs={
      pair: ord(whole)
      for pair, whole in zip(pairs, joined, strict=True)
      if len(whole) == 1
    },
  )


def _ranks(points: np.ndarray, chars: list[str]) -> np.ndarray:
  """Combining classes, by how the library reorders marks."""
  rank = np.zeros(CODE_POINTS, np.int64)
  highest = "\u0345"  # class 240, the highest there is
  moved = [
    whole[0] != highest
    for whole in _each(_NFD, [highest + char for char in chars])
  ]
  marks = [char for char, after in zip(chars, moved, strict=True) if after]
  # A mark of each class that Python knows; a class is found between two.
  probes = {unicodedata.combining(mark): mark for mark in marks}
  probes.pop(0, None)
  below = np.zeros(len(marks), np.int64)
  for value in sorted(probes):
    texts = [probes[value] + mark for mark in marks]
    kept = [whole.startswith(probes[value]) for whole in _each(_NFD, texts)]
    below = np.where(kept, np.maximum(below, value), below)
  rank[[ord(mark) for mark in marks]] = below
  rank[ord(highest)] = 240
  return rank


def automata() -> list[tuple[np.ndarray, CutDfa]]:
  """The automata of normalized texts, each over its own character classes.

  Returns:
    For each: `int32[0x110000]` class of each code point, -1 where a character
    never stands in normalized text; and the automaton, which cuts nothing.
  """
  return [_order(), _composition()]


def _order() -> tuple[np.ndarray, CutDfa]:
  """Marks stand in order. States and classes are combining classes."""
  facts = _facts()
  ranks, label = np.unique(facts.rank, return_inverse=True)
  label = np.where(facts.stable, label, -1).astype(np.int32)
  after = np.broadcast_to(np.arange(len(ranks)), (len(ranks), len(ranks)))
  before = np.arange(len(ranks))[:, None]
  table = np.where((after > 0) & (after < before), DEAD, after)
  return label, _automaton(table)


def _composition() -> tuple[np.ndarray, CutDfa]:
  """Nothing could be composed.

  A state is the kind of the last starter, by what it composes with, and the
  class of the last mark after it (0: none).
  """
  facts = _facts()
  parts = {whole: pair for pair, whole in facts.pairs.items()}
  seconds = sorted({second for _, second in facts.pairs})
  role = np.full(CODE_POINTS, -1)
  role[seconds] = np.arange(len(seconds))
  direct = np.zeros((CODE_POINTS, len(seconds)), bool)
  for first, second in facts.pairs:
    direct[first, role[second]] = True
  composes = direct.copy()
  for whole in parts:
    for second in seconds:
      # A mark goes before the composite's own that are higher.
      bare, rank = whole, facts.rank[second]
      while rank and bare in parts and facts.rank[parts[bare][1]] > rank:
        bare = parts[bare][0]
      composes[whole, role[second]] = direct[bare, role[second]]
  some, kind = unique_rows(composes)
  composes = composes[some]
  features = np.stack([facts.rank, role, kind], axis=1)
  one, label = unique_rows(features)
  chars = features[one].tolist()

  names, queue, rows = {}, [], []

  def name(kind: int, highest: int) -> int:
    if (kind, highest) not in names:
      names[kind, highest] = len(names)
      queue.append((kind, highest))
    return names[kind, highest]

  name(int(np.flatnonzero(~composes.any(1))[0]), 0)
  while len(rows) < len(queue):
    kind, highest = queue[len(rows)]
    row = np.full(len(chars), DEAD, np.int32)
    for char, (rank, role_, own) in enumerate(chars):
      seen = highest == 0 or rank > highest
      if role_ < 0 or not seen or not composes[kind, role_]:
        row[char] = name(kind, max(rank, highest)) if rank else name(own, 0)
    rows.append(row)
  return label.astype(np.int32), _automaton(np.stack(rows))


def _automaton(table: np.ndarray) -> CutDfa:
  """An automaton that starts in state 0 and may end anywhere."""
  table, ends, label = minimize(table, np.ones(len(table), np.int8))
  none = np.zeros((len(table), 0), np.int32)
  return CutDfa(
    plain=table,
    cut=np.full_like(table, DEAD),
    plain_added=none,
    cut_added=none,
    ends=ends.astype(bool),
    starts=(int(label[0]), int(label[0])),
  )
