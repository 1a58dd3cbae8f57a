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
from byteprob.tokenization.byte_dfa import DEAD

_Fine = dict[tuple[int, int], np.ndarray]
"""For `(state after, kind)`, whether each token of the kind leads on there."""


def drop_pairs(
  raw: automaton.TokenAutomaton,
  adjacent: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> automaton.TokenAutomaton:
  """Takes away dead ends where a rule looks at no more than two tokens.

  A token and the state after it may promise what no further token keeps: the
  rule may have joined every token that would go on to this one.

  Args:
    raw: the automaton.
    adjacent: whether the rule lets pairs of tokens stand side by side inside
      a piece, `[P] -> bool[P]`.
  """
  steps = _Steps(raw)
  fine = steps.fill(False)
  landed: dict[int, list[int]] = {}
  for state, kind in fine:
    landed.setdefault(state, []).append(kind)
  changed = True
  while changed:
    changed = False
    for state, kinds in landed.items():
      doubt = np.concatenate([steps.of_kind[k][~fine[state, k]] for k in kinds])
      if steps.cut_leads_on(state, fine):
        doubt = doubt[:0]
      for tokens in steps.onward(state, fine):
        for token in tokens:
          if not len(doubt):
            break
          doubt = doubt[~adjacent(doubt, np.full(len(doubt), token))]
        if not len(doubt):
          break
      for kind in kinds:
        now = ~np.isin(steps.of_kind[kind], doubt)
        changed |= bool((now != fine[state, kind]).any())
        fine[state, kind] = now
  return automaton.without(raw, steps.of_kind, fine)


class Follows(Protocol):
  """A rule's answers about two tokens side by side inside a piece, by id."""

  def may(self, left: int, right: int) -> bool:
    """Whether they can stand so where `left` starts a piece.

    If not, they cannot anywhere.
    """

  def contexts(self, left: int) -> Sequence[Any]:
    """Contexts of `left`, as far as `sure` must know them; at least one."""

  def sure(self, context: Any, right: int) -> bool:
    """Whether `right` may follow the `left` of a context, for sure."""


def drop(
  raw: automaton.TokenAutomaton,
  law: Callable[[np.ndarray], Follows],
  name: Callable[[int], bytes],
) -> automaton.TokenAutomaton:
  """Takes away dead ends where a rule may look at all tokens of a piece.

  Args:
    raw: the automaton.
    law: given the tokens that will be asked for as `left`, the rule.
    name: bytes of a token.

  Raises:
    UnsupportedTokenizerError: it depends on more than the last token.
  """
  steps = _Steps(raw)
  if not steps.unsafe:
    return raw
  asked = np.concatenate([steps.of_kind[kind] for _, kind in steps.unsafe])
  search = _Search(steps, law(np.unique(asked)))
  able, sure = search.able(), search.sure()
  for (state, kind), ok in able.items():
    for token in steps.of_kind[kind][ok & ~sure[state, kind]]:
      raise UnsupportedTokenizerError(
        f"After the token {name(int(token))!r} this tokenizer may demand more"
        " text where longer tokens leave no way to go on, which byteprob"
        " cannot compile exactly."
      )
  return automaton.without(raw, steps.of_kind, able)


class _Steps:
  """The steps of an automaton, and which of them need more tokens.

  A state is *safe* where the text may end, or a cut may come and then an end.

  Attributes:
    raw: the automaton.
    of_kind: the tokens of each kind.
    unsafe: the steps that lead to other states, `(state after, kind)`.
  """

  def __init__(self, raw: automaton.TokenAutomaton):
    self.raw = raw
    kinds = raw.next.shape[1]
    self.of_kind = [np.flatnonzero(raw.kind == k) for k in range(kinds)]
    self._safe = _safe(raw)
    after = np.unique(raw.next.astype(np.int64) * kinds + np.arange(kinds))
    after = after[(after >= 0) & ~self._safe[after // kinds]]
    self.unsafe = [divmod(at, kinds) for at in after.tolist()]

  def fill(self, value: bool) -> _Fine:
    """The same answer for all tokens of all unsafe steps."""
    return {
      (state, kind): np.full(len(self.of_kind[kind]), value)
      for state, kind in self.unsafe
    }

  def onward(self, state: int, fine: _Fine) -> Iterator[np.ndarray]:
    """Tokens that may follow at a state and lead on, some at a time."""
    row = self.raw.next[state]
    able = np.flatnonzero(row != DEAD)
    for kind in able[self._safe[row[able]]]:
      yield self.of_kind[kind]
    for kind in able[~self._safe[row[able]]]:
      yield self.of_kind[kind][fine[int(row[kind]), int(kind)]]

  def cut_leads_on(self, state: int, fine: _Fine) -> bool:
    """Whether a cut may come at a state, and then some token that leads on."""
    cut = self.raw.cut[state]
    return cut != DEAD and any(len(found) for found in self.onward(cut, fine))


def _safe(raw) -> np.ndarray:
  """States where the text may end, or a cut may come and then an end."""
  safe = raw.ends.copy()
  while True:
    good = (raw.next != DEAD) & safe[raw.next]
    grown = safe | ((raw.cut != DEAD) & good[raw.cut].any(1))
    if (grown == safe).all():
      return safe
    safe = grown


class _Search:
  """Whether something can follow a state and the token that led to it."""

  def __init__(self, steps: _Steps, law: Follows):
    self.steps, self.law = steps, law

  def able(self) -> _Fine:
    """Those after which the last two tokens alone bar not everything."""
    first = dict.fromkeys(self.steps.unsafe, True)
    return self._settle(self.steps.fill(True), first)

  def sure(self) -> _Fine:
    """Those after which something may follow whatever stands before."""
    return self._settle(self.steps.fill(False), self._first())

  def _first(self) -> dict[tuple[int, int], bool]:
    """Whether the token of each unsafe step always starts a piece."""
    raw = self.steps.raw
    begins = np.zeros(len(raw.next), bool)
    begins[list(raw.starts)] = True
    begins[raw.cut[raw.cut != DEAD]] = True
    begins[np.unique(raw.next[raw.next != DEAD])] = False
    return {
      (state, kind): bool(begins[raw.next[:, kind] == state].all())
      for state, kind in self.steps.unsafe
    }

  def _settle(self, fine: _Fine, first: dict[tuple[int, int], bool]) -> _Fine:
    """Asks again and again until the answers stay as they are.

    Args:
      fine: the answers to begin with.
      first: whether each step's tokens are taken to start a piece.
    """
    changed = True
    while changed:
      changed = False
      for (state, kind), ok in fine.items():
        now = self._go_on(state, kind, first[state, kind], fine)
        changed |= bool((now != ok).any())
        fine[state, kind] = now
    return fine

  def _go_on(self, state, kind, first, fine) -> np.ndarray:
    """Whether each token of a step leads on, if `fine` holds elsewhere."""
    tokens = self.steps.of_kind[kind].tolist()
    if self.steps.cut_leads_on(state, fine):
      return np.ones(len(tokens), bool)
    onward = self.steps.onward(state, fine)
    others = [other for part in onward for other in part.tolist()]

    def follows(token) -> bool:
      if first:
        return any(self.law.may(token, other) for other in others)
      return all(
        any(self.law.sure(context, other) for other in others)
        for context in self.law.contexts(token)
      )

    return np.array([follows(token) for token in tokens], bool)
