"""Host: longest match from the left, as facts about tokens and trie nodes.

A token that starts at some place forbids, inside the same piece, that the
text goes on so that a longer token matches there. While the bytes from that
place on are a proper prefix of longer tokens, the match is *pending*. Which
matches are pending at a node follows from the oldest one alone: its bytes are
tokenized from the left too, in one way, so its tokens, and with them the
places where later matches began, are known. A hypothesis of a node therefore
carries one trie node, and `LongestMatchTables.link` leads to the later ones.

Special tokens are no part of the vocabulary here: their texts are bytes like
any other.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import automaton, deadends, trie
from byteprob.tokenization.byte_dfa import DEAD
from byteprob.tokenization.spec import TokenizerSpec
from byteprob.tokenization.tables import LongestMatchTables
from byteprob.tokenization.trie import Trie

_NONE = -1


def prepare(
  spec: TokenizerSpec, tokens: automaton.TokenAutomaton
) -> automaton.TokenAutomaton:
  """The automaton without what longest matches never complete.

  Raises:
    UnsupportedTokenizerError: what longest matches leave depends on more than
      the automaton can know.
  """
  if spec.mark:
    _check_mark(spec, tokens)
  return deadends.drop(
    tokens,
    lambda asked: _Longest(spec),
    lambda token: spec.tokens[token] or b"",
  )


def _own(spec: TokenizerSpec) -> list[int]:
  """The tokens that matches are sought among: not those that are cut out."""
  added = {token.id for token in spec.added}
  return [
    id_ for id_, text in enumerate(spec.tokens) if text and id_ not in added
  ]


class _Longest:
  """See `deadends.Follows`; a context is what its pending matches bar."""

  def __init__(self, spec: TokenizerSpec):
    self._spelled = spec.tokens
    inside = spec.inside or frozenset()
    ids = sorted(_own(spec), key=lambda token: spec.tokens[token])
    words = [spec.tokens[token] for token in ids]
    nodes, node_of = trie.build(words)
    later = np.isin(ids, sorted(inside))
    pending = _Pending(words, nodes, node_of, [~later, later])
    self._bars: dict[int, frozenset[bytes]] = {}
    self._contexts: dict[tuple[bytes, int], set[frozenset[bytes]]] = {}
    for code in pending.codes():
      bars, last = pending.bars(code), pending.last(code)
      if (after := pending.link(code)) != _NONE:
        bars |= self._bars[after]
      self._bars[code] = frozenset(bars)
      if last is not None:
        self._contexts.setdefault(last, set()).add(self._bars[code])
    self._own = {
      token: self._bars.get(2 * int(node) + (token in inside), frozenset())
      for token, node in zip(ids, node_of, strict=True)
    }
    self._type = {token: int(token in inside) for token in ids}

  def may(self, left: int, right: int) -> bool:
    """Whether no token that starts where `left` does is longer."""
    return self.sure(self._own.get(left, frozenset()), right)

  def contexts(self, left: int) -> list[frozenset[bytes]]:
    """Texts that pending matches bar after a token, a set for each case."""
    key = self._spelled[left], self._type.get(left, 0)
    return list(self._contexts.get(key, {frozenset()}))

  def sure(self, context: frozenset[bytes], right: int) -> bool:
    """Whether no pending match becomes a longer one."""
    text = self._spelled[right]
    return not any(text[:size] in context for size in range(1, len(text) + 1))


def _check_mark(spec, tokens) -> None:
  """Refuses texts that the library takes for tokens inside a piece.

  It looks up the text itself at the start of a piece: `##a` there is the
  token that spells `a` elsewhere.
  """
  begins = {*tokens.starts, *tokens.cut[tokens.cut != DEAD].tolist()}
  seen: set[tuple[int, bytes]] = {(state, b"") for state in begins}
  queue = list(seen)
  while queue:
    state, done = queue.pop()
    rest = spec.mark[len(done) :]
    for token, text in enumerate(spec.tokens):
      if not text or not (text.startswith(rest) or rest.startswith(text)):
        continue
      after = int(tokens.next[state, tokens.kind[token]])
      if after == DEAD:
        continue
      if text.startswith(rest):
        raise UnsupportedTokenizerError(
          "In this tokenizer a piece may start with the text"
          f" {spec.mark.decode()!r}, which WordPiece takes for its own mark,"
          " so byteprob cannot compile it exactly."
        )
      if (after, done + text) not in seen:
        seen.add((after, done + text))
        queue.append((after, done + text))


def compile_longest_match(
  spec: TokenizerSpec,
  ids: np.ndarray,
  words: Sequence[bytes],
  nodes: Trie,
  node_of: np.ndarray,
) -> LongestMatchTables:
  """Compiles what pending matches forbid.

  Args:
    spec: the tokenizer.
    ids: `int[Y]` id of each token, in sorted order.
    words: their bytes.
    nodes: their trie.
    node_of: `int[Y]` trie node of each.
  """
  inside = np.isin(ids, sorted(spec.inside or ()))
  own = np.isin(ids, _own(spec))
  pending = _Pending(words, nodes, node_of, [own & ~inside, own & inside])
  count = 2 * len(nodes.low)
  link = np.full(count, _NONE)
  runs: list[list[tuple[int, int]]] = [[] for _ in range(count)]
  # Later matches are shorter: they come first.
  for code in pending.codes():
    link[code] = pending.link(code)
    found = pending.runs(code)
    if link[code] != _NONE:
      found += runs[link[code]]
    runs[code] = _union(found)
  counts = np.array([len(each) for each in runs])
  flat = [run for each in runs for run in each]
  flat = np.array(flat, np.int64).reshape(-1, 2)
  size = np.array([len(word) for word in words])

  def int32(values):
    return np.ascontiguousarray(values, np.int32)

  return LongestMatchTables(
    node=int32(node_of),
    inside=int32(inside),
    begin=int32(np.cumsum(size) - size),
    spelled=np.frombuffer(b"".join(words), np.uint8),
    open=pending.open.ravel(),
    link=int32(link),
    run_of=int32(np.concatenate([[0], np.cumsum(counts)])),
    low=int32(flat[:, 0]),
    high=int32(flat[:, 1]),
    runs=int(counts.max(initial=0)),
  )


class _Pending:
  """The pending matches of a vocabulary, by number; see `LongestMatchTables`.

  Attributes:
    open: `bool[M, 2]` whether a longer token may still match.
  """

  def __init__(self, words, nodes, node_of, of_type):
    self._words, self._nodes, self._of_type = words, nodes, of_type
    self._place = {b"": 0}
    low, depth = nodes.low, nodes.depth
    for node in range(len(low)):
      self._place[words[low[node]][: depth[node]]] = node
    self._ends = np.zeros((len(low), 2), bool)
    below = np.zeros((len(low), 2), int)
    for type_, member in enumerate(of_type):
      self._ends[node_of[member], type_] = True
      before = np.concatenate([[0], np.cumsum(member)])
      equal = np.bincount(node_of[member], minlength=len(low))
      below[:, type_] = before[nodes.high] - before[nodes.low] - equal
    self.open = below > 0
    self.open[0] = False
    self._later = int(of_type[1].any())

  def codes(self) -> list[int]:
    """All of them, the later matches of each first: they are shorter."""
    codes = np.flatnonzero(self.open.ravel())
    size = self._nodes.depth[codes // 2]
    return codes[np.argsort(size, kind="stable")].tolist()

  def _text(self, code: int) -> bytes:
    node = code // 2
    return self._words[self._nodes.low[node]][: self._nodes.depth[node]]

  def _starts(self, code: int) -> Iterator[tuple[bytes, int]]:
    """Yields the rest of a match before each of its tokens, with their types.

    The last rest is empty if the tokens fill the match.
    """
    rest, type_ = self._text(code), code % 2
    while rest:
      yield rest, type_
      size = len(rest)
      while size and not self._is_token(rest[:size], type_):
        size -= 1
      if not size:
        return
      rest, type_ = rest[size:], self._later
    yield rest, type_

  def link(self, code: int) -> int:
    """The next pending match of the tokens that a match is made of."""
    for rest, type_ in itertools.islice(self._starts(code), 1, None):
      node = self._place.get(rest)
      if rest and node is not None and self.open[node, type_]:
        return 2 * node + type_
    return _NONE

  def last(self, code: int) -> tuple[bytes, int] | None:
    """The last token of a match and its type; None if tokens do not fill it."""
    *_, before, (rest, _) = [None, *self._starts(code)]
    return None if rest else before

  def _is_token(self, text: bytes, type_: int) -> bool:
    node = self._place.get(text)
    return node is not None and bool(self._ends[node, type_])

  def bars(self, code: int) -> set[bytes]:
    """Texts that a match itself bars after it: they would make it longer."""
    nodes, node = self._nodes, code // 2
    own = self._of_type[code % 2][nodes.low[node] : nodes.high[node]]
    return {
      self._words[at][nodes.depth[node] :]
      for at in np.flatnonzero(own) + nodes.low[node]
    } - {b""}

  def runs(self, code: int) -> list[tuple[int, int]]:
    """Runs of the tokens that start with what must not follow."""
    low, high = self._nodes.low, self._nodes.high
    rests = (self._place.get(rest) for rest in self.bars(code))
    return [(int(low[at]), int(high[at])) for at in rests if at is not None]


def _union(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
  """The same tokens in disjoint ascending runs."""
  found: list[tuple[int, int]] = []
  for low, high in sorted(runs):
    if found and low <= found[-1][1]:
      found[-1] = (found[-1][0], max(found[-1][1], high))
    else:
      found.append((low, high))
  return found
