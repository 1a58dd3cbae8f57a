"""Host: the best-scored way to cut a piece, as facts about nodes and tokens.

A unigram tokenizer takes the path through a piece whose scores sum up to the
most; of paths that tie, the one whose last token starts first, and so on from
there to the left. A beginning of a best path is the best path of its text. So
the nodes of a text are what Viterbi's algorithm keeps, and a token may follow
a node unless some *rival*, a path to an earlier place and a token that
crosses the node's end into the token's bytes, is better in the end.

Sums are exact, in whole multiples of `2**-SCALE`, so that ties are ties. The
libraries add floats (tokenizers 64 bits, sentencepiece 32) from the start of
the piece on: where paths tie, or all but tie far into a long piece, their
choice is this one only as long as their sums are exact too.

A character without a piece of its own is spelled in bytes; no piece holds it,
so all paths go through the same bytes there, and these count nothing. Special
tokens and byte tokens are no pieces: what they are called is bytes like any
other text.
"""

from collections.abc import Sequence

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import automaton, deadends
from byteprob.tokenization.spec import TokenizerSpec
from byteprob.tokenization.tables import LIMB, SCALE, UnigramTables
from byteprob.tokenization.trie import Trie

_LARGEST = 2.0**16
"""Scores beyond this would not fit into the sums."""


class _Scores:
  """The pieces of a tokenizer and their scores, in multiples of 2**-SCALE."""

  def __init__(self, spec: TokenizerSpec):
    added = {token.id for token in spec.added}
    self.ids = [
      id_ for id_, text in enumerate(spec.tokens) if text and id_ not in added
    ]
    self.of: dict[bytes, int] = {}
    for id_ in self.ids:
      score = float(spec.scores[id_])
      if not abs(score) < _LARGEST:
        raise UnsupportedTokenizerError(
          f"The piece {spec.tokens[id_]!r} has the score {score}, which"
          " byteprob cannot add up exactly."
        )
      self.of[spec.tokens[id_]] = round(score * 2**SCALE)
    self._longest = max(map(len, self.of), default=0)
    self._best: dict[bytes, int | None] = {b"": 0}

  def best(self, text: bytes) -> int | None:
    """Score of the best path through a text, None if there is none."""
    for begin in range(len(text) - 1, -1, -1):
      rest = text[begin:]
      if rest in self._best:
        continue
      found = [
        self.of[rest[:size]] + tail
        for size in range(1, min(len(rest), self._longest) + 1)
        if rest[:size] in self.of
        and (tail := self._best[rest[size:]]) is not None
      ]
      self._best[rest] = max(found, default=None)
    return self._best[text]

  def path(self, text: bytes) -> list[bytes] | None:
    """The path that the tokenizer takes through a text."""
    score: list[int | None] = [0] + [None] * len(text)
    start = [0] * (len(text) + 1)
    for begin in range(len(text)):
      if (before := score[begin]) is None:
        continue
      for end in range(begin + 1, min(len(text), begin + self._longest) + 1):
        own = self.of.get(text[begin:end])
        if own is None:
          continue
        there = score[end]
        if there is None or before + own > there:
          score[end], start[end] = before + own, begin
    if score[-1] is None:
      return None
    found, end = [], len(text)
    while end:
      found.append(text[start[end] : end])
      end = start[end]
    return found[::-1]


def whole(spec: TokenizerSpec) -> np.ndarray:
  """The tokens that can occur: pieces that no path through them beats.

  Returns:
    `bool[V]`, by id; true for what is no piece.

  Raises:
    UnsupportedTokenizerError: a piece holds what is no piece alone.
  """
  scores = _Scores(spec)
  # What is cut out of the text stands in no piece.
  alone = {token.text.encode() for token in spec.added}.union(scores.of)
  found = np.ones(spec.size, bool)
  for id_ in scores.ids:
    text = spec.tokens[id_]
    for atom in _atoms(text, spec.char_level):
      if atom not in alone:
        raise UnsupportedTokenizerError(
          f"The piece {text!r} of this tokenizer holds {atom!r}, which is no"
          " piece by itself, so byteprob cannot compile it exactly."
        )
    found[id_] = scores.best(text) == scores.of[text]
  return found


def _atoms(text: bytes, char_level: bool) -> list[bytes]:
  if char_level:
    chars = text.decode("utf-8", "surrogatepass")
    return [char.encode("utf-8", "surrogatepass") for char in chars]
  return [bytes([byte]) for byte in text]


def prepare(
  spec: TokenizerSpec, tokens: automaton.TokenAutomaton
) -> automaton.TokenAutomaton:
  """The automaton without what best paths never complete.

  Raises:
    UnsupportedTokenizerError: what they leave depends on more than the
      automaton can know.
  """
  bytes_ = {id_: bytes([byte]) for byte, id_ in spec.fallback.items()}
  return deadends.drop(
    tokens,
    lambda asked: _Paths(spec, asked),
    lambda token: spec.tokens[token] or bytes_.get(token, b""),
  )


class _Paths:
  """See `deadends.Follows`; nothing crosses the bytes of a character apart."""

  def __init__(self, spec: TokenizerSpec, asked: np.ndarray):
    self._spelled = spec.tokens
    self._scores = _Scores(spec)
    self._apart = {*spec.fallback.values(), *(t.id for t in spec.added)}
    names = {spec.tokens[t] for t in asked if int(t) not in self._apart}
    ends = {text[k:] for text in names for k in range(len(text))}
    # What follows each of these in some piece, and at a piece's start.
    self._within = {text: set() for text in names}
    self._from = {text: set() for text in ends}
    for piece in self._scores.of:
      for begin in range(len(piece)):
        for end in range(begin + 1, len(piece)):
          part = piece[begin:end]
          if part in names:
            self._within[part].add(piece[end:])
          if not begin and part in ends:
            self._from[part].add(piece[end:])

  def may(self, left: int, right: int) -> bool:
    """Whether the two are the path through their bytes."""
    if left in self._apart or right in self._apart:
      return True
    pair = [self._spelled[left], self._spelled[right]]
    return self._scores.path(b"".join(pair)) == pair

  def contexts(self, left: int) -> Sequence[int]:
    """The token alone: `sure` does not look at tokens before it."""
    return [left]

  def sure(self, context: int, right: int) -> bool:
    """Whether no piece crosses from one into the other besides."""
    left = context
    if left in self._apart or right in self._apart:
      return True
    text, rest = self._spelled[left], self._spelled[right]
    crossing = [self._within[text]]
    crossing += [self._from[text[k:]] for k in range(len(text))]
    return self.may(left, right) and not any(
      rest[:size] in bars
      for bars in crossing
      for size in range(1, len(rest) + 1)
    )


def compile_unigram(
  spec: TokenizerSpec,
  ids: np.ndarray,
  words: Sequence[bytes],
  nodes: Trie,
  node_of: np.ndarray,
) -> UnigramTables:
  """Compiles scores, and which rivals bar a token.

  Args:
    spec: the tokenizer.
    ids: `int[Y]` id of each token, in sorted order.
    words: their bytes.
    nodes: their trie.
    node_of: `int[Y]` trie node of each.
  """
  del node_of
  scores = _Scores(spec)
  is_piece = np.isin(ids, scores.ids)
  place = {
    words[low][:depth]: node
    for node, (low, depth) in enumerate(
      zip(nodes.low.tolist(), nodes.depth.tolist(), strict=True)
    )
  }
  suffix: list[int] = []
  for piece, word in zip(is_piece, words, strict=True):
    for depth in range(1, len(word)):
      suffix.append(place.get(word[depth:], -1) if piece else -1)
  used = set(suffix)
  entries: list[tuple[int, int, int]] = []
  for token in np.flatnonzero(is_piece).tolist():
    word = words[token]
    if scores.best(word) != scores.of[word]:
      continue
    for size in range(1, len(word) + 1):
      tail = scores.best(word[size:])
      if tail is not None and (node := place[word[:size]]) in used:
        # A rival that ends where the token does wins ties: it starts first.
        tie = size == len(word)
        entries.append((token, node, scores.of[word] - tail - tie))
  token, node, limit = np.array(entries, np.int64).reshape(-1, 3).T
  own = np.array([
    scores.of[word] if piece else 0
    for piece, word in zip(is_piece, words, strict=True)
  ], np.int64)  # fmt: skip
  size = np.array([len(word) - 1 for word in words])

  def int32(values):
    return np.ascontiguousarray(values, np.int32)

  return UnigramTables(
    high=int32(own >> LIMB),
    low=int32(own & (2**LIMB - 1)),
    depth=int32(nodes.depth),
    suffix_of=int32(np.cumsum(size) - size),
    suffix=int32(suffix),
    entry_token=int32(token),
    entry_node=int32(node),
    entry_high=int32(limit >> LIMB),
    entry_low=int32(limit & (2**LIMB - 1)),
  )
