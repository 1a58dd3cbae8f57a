"""Host: how a tokenizer cuts a text, as automata that read marked text.

A *marked text* has a mark at every place where the tokenizer cuts it before
its model sees it, and none at its ends. Cutting goes level by level: added
tokens first, then each split of the pre-tokenizer inside the pieces of the
one before. Each level here is a nondeterministic automaton that reads the
characters of one piece, told before each character whether this level cuts
there; it guesses how the matching will go on and dies where it guessed wrong.
`SplitNfa` runs all levels side by side.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from byteprob.tokenization import regex

State = object
"""A hashable state of a level; None is the start of a piece."""


class Level(Protocol):
  """One way of cutting."""

  def step(self, state: State, cut: bool, char: int) -> set[State]:
    """States after reading a character of class `char`."""

  def take(self, state: State, cut: bool, token: int) -> set[State]:
    """States after reading a whole added token as one piece."""

  def ends(self, state: State) -> bool:
    """Whether the piece may end here."""


@dataclasses.dataclass(frozen=True)
class SplitLevel:
  """One regular expression, matched from left to right, and what it cuts.

  Its state is `(is_match, threads, barred)`: whether the present stretch is a
  match or a gap between matches; the threads of the present match, best
  first, one of which must succeed; and the threads that must never succeed,
  since if they did the text would have been matched otherwise. Threads are
  instructions still to be followed (`regex.closure`) once the next character
  is known.

  Attributes:
    program: from `regex.assemble`.
    behavior: the tokenizer library's name for what becomes of matches.
    invert: matches and gaps change roles in `behavior`.
  """

  program: tuple
  behavior: str
  invert: bool

  def cuts(self, match_before: bool, match_after: bool) -> bool:
    """Whether two neighbouring stretches are different pieces."""
    before = match_before != self.invert
    after = match_after != self.invert
    match self.behavior:
      case "contiguous":
        return before != after
      case "merged_with_previous":
        return before or not after
      case "merged_with_next":
        return after or not before
    return True

  def step(self, state, cut, char):
    """See `Level`."""
    found = set()
    for is_match, threads, barred in self._turns(state, cut, char):
      threads = self._read(threads, char)
      if is_match and not threads:
        continue
      found.add((is_match, threads, frozenset(self._read(barred, char))))
    return found

  def take(self, state, cut, token):
    """See `Level`: there are no added tokens at this level."""
    return set()

  def ends(self, state):
    """See `Level`."""
    if state is None:
      return True
    is_match, threads, barred = state
    if self._matched(tuple(barred), None):
      return False
    return not is_match or self._matched(threads, None)

  def _turns(self, state, cut, char):
    """Yields the possible states just before the next character is read."""
    if state is None:
      if not cut:
        yield from self._opened(frozenset())
      return
    is_match, threads, barred = state
    if self._matched(tuple(barred), char):
      return
    if not is_match:
      if cut == self.cuts(False, True):
        yield (True, (0,), barred)
      if not cut:
        yield (False, (), barred | {0})
      return
    items = regex.closure(self.program, threads, char)
    done = next(
      (k for k, pc in enumerate(items) if self._is_match(pc)), len(items)
    )
    if not cut and done:
      yield (True, items[:done], barred)
    if done < len(items):
      # The match is over: what was tried before it must fail.
      for turn in self._opened(barred | set(items[:done])):
        if cut == self.cuts(True, turn[0]):
          yield turn

  def _opened(self, barred):
    """A match starts here; or it does not, and must not."""
    yield (True, (0,), barred)
    if self.behavior != "removed":
      yield (False, (), barred | {0})

  def _is_match(self, pc):
    return isinstance(self.program[pc], regex.Match)

  def _matched(self, threads, char):
    return any(
      self._is_match(pc) for pc in regex.closure(self.program, threads, char)
    )

  def _read(self, threads, char):
    order = (
      tuple(sorted(threads)) if isinstance(threads, frozenset) else threads
    )
    return tuple(
      pc + 1
      for pc in regex.closure(self.program, order, char)
      if not self._is_match(pc) and char in self.program[pc].classes
    )


@dataclasses.dataclass(frozen=True)
class PrefixLevel:
  """The space that some tokenizers put before a text; it never cuts.

  Attributes:
    space: class of the space, alone in it.
    bare_ends: whether the space alone is a text.
  """

  space: int
  bare_ends: bool

  BARE, TEXT = "bare", "text"

  def step(self, state, cut, char):
    """See `Level`."""
    if cut or (state is None and char != self.space):
      return set()
    return {self.BARE if state is None else self.TEXT}

  def take(self, state, cut, token):
    """See `Level`: there are no added tokens at this level."""
    return set()

  def ends(self, state):
    """See `Level`."""
    return state != self.BARE or self.bare_ends


_TERMINAL = object()


class AddedLevel:
  """Added tokens: cut out wherever they occur, leftmost first, then longest.

  Its state is `(is_added, barred)`: whether the present piece is an added
  token, and the nodes of a graph of added texts whose ends must never be
  reached: an occurrence that starts earlier, or a longer one.
  """

  def __init__(self, texts: Sequence[tuple[int, ...]]):
    """Makes the level of these texts, each a tuple of classes."""
    self.texts = texts
    trie: dict = {}
    for text in texts:
      node = trie
      for char in text:
        node = node.setdefault(char, {})
      node[_TERMINAL] = True
    # Texts that can go on alike share a node: only their ends matter.
    self._nodes: list[tuple[bool, dict[int, int]]] = []
    self._root = self._share(trie)
    self._node = [self._find(text) for text in texts]

  def kin(self, token: int):
    """Tokens of one kin are alike unless something barred runs into them."""
    return self.texts[token][0], self._node[token]

  def runs_into(self, state: State, char: int) -> bool:
    """Whether a barred text may go on with this character."""
    _, barred = state or (False, frozenset())
    return any(char in self._nodes[node][1] for node in barred)

  def _share(self, trie: dict) -> int:
    # Children first, without recursion: texts may be long.
    stack, done, names = [trie], {}, {}
    while stack:
      node = stack[-1]
      inner = [(c, child) for c, child in node.items() if c is not _TERMINAL]
      waiting = [child for _, child in inner if id(child) not in done]
      if waiting:
        stack.extend(waiting)
        continue
      stack.pop()
      children = tuple(sorted((c, done[id(child)]) for c, child in inner))
      key = (_TERMINAL in node, children)
      if key not in names:
        names[key] = len(self._nodes)
        self._nodes.append((key[0], dict(children)))
      done[id(node)] = names[key]
    return done[id(trie)]

  def _find(self, text: tuple[int, ...]) -> int:
    node = self._root
    for char in text:
      node = self._nodes[node][1][char]
    return node

  def _advance(self, barred, char):
    """The barred nodes after a character; None if one has been reached."""
    after = set()
    for node in barred:
      child = self._nodes[node][1].get(char)
      if child is None:
        continue
      if self._nodes[child][0]:
        return None
      after.add(child)
    return frozenset(after)

  def step(self, state, cut, char):
    """See `Level`."""
    is_added, barred = state or (False, frozenset())
    if cut != is_added:
      return set()
    barred = self._advance(barred | {self._root}, char)
    return set() if barred is None else {(False, barred)}

  def take(self, state, cut, token):
    """See `Level`."""
    if cut == (state is None):
      return set()
    _, barred = state or (False, frozenset())
    for char in self.texts[token]:
      if not barred:
        break
      barred = self._advance(barred, char)
      if barred is None:
        return set()
    node = self._node[token]
    return {(True, barred | {node} if self._nodes[node][1] else barred)}

  def ends(self, state):
    """See `Level`."""
    return True


class SplitNfa:
  """All levels side by side, made deterministic step by step.

  States are frozen sets of tuples, one state of each level. A cut belongs to
  one level: coarser levels do not see it, finer ones end there and begin
  anew. Which level it is is guessed, as is everything inside the levels.
  """

  def __init__(self, levels: Sequence[Level]):
    """Levels go from the coarsest to the finest."""
    self.levels = tuple(levels)
    self.start = frozenset({(None,) * len(self.levels)})

  def step(self, states: frozenset, cut: bool, char: int) -> frozenset:
    """All states after a mark, or none, and a character."""
    found = set()
    for state in states:
      if not cut:
        found |= self._all(state, len(self.levels), char)
      else:
        for level in range(len(self.levels)):
          found |= self._all(state, level, char)
    return frozenset(found)

  def _all(self, state, cutter, char):
    """Steps every level; `cutter` cuts, the ones after it begin anew."""
    options = []
    for k, level in enumerate(self.levels):
      if k > cutter and not level.ends(state[k]):
        return set()
      options.append(
        level.step(state[k] if k <= cutter else None, k == cutter, char)
      )
    return set(_product(options))

  def take(
    self, states: frozenset, cut: bool, level: int, token: int
  ) -> frozenset:
    """All states after a mark, or none, and an added token of a level."""
    found = set()
    for state in states:
      for cutter in range(level + 1) if cut else (len(self.levels),):
        found |= self._taken(state, cutter, level, token)
    return frozenset(found)

  def _taken(self, state, cutter, level, token):
    options = []
    text = self.levels[level].texts[token]
    for k, part in enumerate(self.levels):
      fresh = k > min(cutter, level)
      if fresh and cutter < len(self.levels) and not part.ends(state[k]):
        return set()
      if k > level and cutter == len(self.levels) and state[k] is not None:
        return set()
      before = None if fresh else state[k]
      if k < level:
        after = part.step(before, k == cutter, text[0])
        for char in text[1:]:
          after = set().union(*(part.step(s, False, char) for s in after))
      elif k == level:
        after = part.take(before, k == cutter, token)
      else:
        after = {None}
      options.append(after)
    return set(_product(options))

  def take_all(
    self, states: frozenset, cut: bool, kins: dict[tuple, list[int]]
  ) -> list[tuple[int, frozenset, list[int]]]:
    """`take` for all `kins` (see `kins_of`): level, states, tokens."""
    found = []
    for (level, (char, _)), tokens in kins.items():
      alone = any(isinstance(k, AddedLevel) for k in self.levels[:level])
      part = self.levels[level]
      if alone or any(part.runs_into(state[level], char) for state in states):
        for token in tokens:
          found.append((level, self.take(states, cut, level, token), [token]))
      else:
        found.append((level, self.take(states, cut, level, tokens[0]), tokens))
    return found

  def kins_of(self) -> dict[tuple, list[int]]:
    """All added tokens by level and kin."""
    kins: dict[tuple, list[int]] = {}
    for level, part in enumerate(self.levels):
      if isinstance(part, AddedLevel):
        for token in range(len(part.texts)):
          kins.setdefault((level, part.kin(token)), []).append(token)
    return kins

  def ends(self, states: frozenset) -> bool:
    """Whether the text may end here."""
    return any(
      all(level.ends(s) for level, s in zip(self.levels, state, strict=True))
      for state in states
    )


def _product(options):
  tuples = [()]
  for values in options:
    tuples = [(*head, value) for head in tuples for value in values]
  return tuples
