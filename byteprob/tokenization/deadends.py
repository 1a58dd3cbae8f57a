"""Host: no node is kept that no further tokens could complete.

In most states of the automaton the text may end, or be cut; there a node is
complete as it stands. In the others (inside a character, where a split looks
ahead) some token must follow, and the rule that makes tokens of a piece may
bar all of them. Whether it does can depend on tokens far back; where it does,
the tokenizer is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import automaton
from byteprob.tokenization.machine import DEAD


class Follows(Protocol):
  """What a rule says of two tokens side by side inside a piece, by id."""

  def may(self, left: int, right: int) -> bool:
    """Whether they can stand so where `left` starts a piece.

    If not, they cannot anywhere.
    """

  def contexts(self, left: int) -> Sequence[Any]:
    """What may stand before `left`, as far as `sure` must know; some."""

  def sure(self, context: Any, right: int) -> bool:
    """Whether `right` may follow the `left` of a context, for sure."""


def drop(
  raw: automaton.TokenAutomaton,
  law: Callable[[np.ndarray], Follows],
  name: Callable[[int], bytes],
) -> automaton.TokenAutomaton:
  """Takes away the steps after which no sequence of tokens could end.

  Args:
    raw: the automaton.
    law: given the tokens that will be asked for as `left`, the rule.
    name: bytes of a token.

  Raises:
    UnsupportedTokenizerError: it depends on more than the last token.
  """
  of_kind = [np.flatnonzero(raw.kind == k) for k in range(raw.next.shape[1])]
  landing = _unsafe(raw)
  if not landing:
    return raw
  asked = np.unique(np.concatenate([of_kind[k] for _, k in landing]))
  search = _Search(raw, of_kind, landing, law(asked))
  able, sure = search.able(), search.sure()
  fine: dict[tuple[int, int], np.ndarray] = {}
  for state, kind in landing:
    fine[state, kind] = np.array([(state, t) in able for t in of_kind[kind]])
    for token in of_kind[kind]:
      if (state, token) in able and (state, token) not in sure:
        raise UnsupportedTokenizerError(
          f"After the token {name(int(token))!r} this tokenizer may demand more"
          " text where longer tokens leave no way to go on, which byteprob"
          " cannot compile exactly."
        )
  return automaton.without(raw, of_kind, fine)


def _safe(raw) -> np.ndarray:
  """States where the text may end, or a cut may come and then an end."""
  safe = raw.ends.copy()
  while True:
    good = (raw.next != DEAD) & safe[raw.next]
    grown = safe | ((raw.cut != DEAD) & good[raw.cut].any(1))
    if (grown == safe).all():
      return safe
    safe = grown


def _unsafe(raw) -> dict[tuple[int, int], bool]:
  """The steps that lead to other states: `(state after, kind)`.

  Returns:
    Whether the token always starts a piece, for each.
  """
  safe = _safe(raw)
  begins = np.zeros(len(raw.next), bool)
  begins[list(raw.starts)] = True
  begins[raw.cut[raw.cut != DEAD]] = True
  begins[np.unique(raw.next[raw.next != DEAD])] = False
  found: dict[tuple[int, int], bool] = {}
  alive = (raw.next != DEAD) & ~safe[raw.next]
  for state, kind in zip(*np.nonzero(alive), strict=True):
    key = int(raw.next[state, kind]), int(kind)
    found[key] = found.get(key, True) and bool(begins[state])
  return found


class _Search:
  """Whether something can follow a state and the token that led to it."""

  def __init__(self, raw, of_kind, landing, law: Follows):
    self.raw, self.of_kind, self.landing, self.law = raw, of_kind, landing, law
    self.safe = _safe(raw)

  def able(self) -> set[tuple[int, int]]:
    """Those after which the last two tokens alone bar not everything."""
    found = {(q, int(t)) for q, k in self.landing for t in self.of_kind[k]}
    while True:
      kept = {pair for pair in found if self._goes_on(*pair, True, found)}
      if kept == found:
        return found
      found = kept

  def sure(self) -> set[tuple[int, int]]:
    """Those after which something may follow whatever stands before."""
    found: set[tuple[int, int]] = set()
    while True:
      grown = set(found)
      for (state, kind), first in self.landing.items():
        for token in self.of_kind[kind].tolist():
          if (state, token) not in grown and self._goes_on(
            state, token, first, grown
          ):
            grown.add((state, token))
      if grown == found:
        return found
      found = grown

  def _goes_on(self, state, token, first, good) -> bool:
    cut = self.raw.cut[state]
    if cut != DEAD and any(True for _ in self._onward(cut, good)):
      return True
    others = list(self._onward(state, good))
    if first:
      return any(self.law.may(token, other) for other in others)
    return all(
      any(self.law.sure(context, other) for other in others)
      for context in self.law.contexts(token)
    )

  def _onward(self, state, good) -> Iterator[int]:
    """Tokens that the automaton lets follow and that lead on."""
    row = self.raw.next[state]
    able = np.flatnonzero(row != DEAD)
    for kind in able[self.safe[row[able]]]:
      yield from self.of_kind[kind].tolist()
    for kind in able[~self.safe[row[able]]]:
      after = int(row[kind])
      for token in self.of_kind[kind].tolist():
        if (after, token) in good:
          yield token
