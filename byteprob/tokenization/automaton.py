"""Host: from a machine that reads symbols to one that reads whole tokens.

Tokens that do the same to every state are of one *kind*; there are a few
hundred. `read_tokens` finds them, `restrict_pieces` adds what a tokenizer
demands of a piece as a whole, `without` takes away steps of single tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from byteprob.tokenization import byte_dfa
from byteprob.tokenization.byte_dfa import DEAD, unique_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenAutomaton:
  """The tokenizer's marked token sequences, but for BPE's own law.

  Attributes:
    next: `int32[Q, K]` state after a token of a kind, `DEAD` if it cannot
      stand there.
    cut: `int32[Q]` state after a mark, `DEAD` where none can be.
    ends: `bool[Q]` whether the text may end here.
    kind: `int32[V]` kind of each token.
    starts: the start states.
  """

  next: np.ndarray
  cut: np.ndarray
  ends: np.ndarray
  kind: np.ndarray
  starts: tuple[int, ...]


def read_tokens(
  reader: byte_dfa.Machine,
  strings: Sequence[np.ndarray | None],
  added: Sequence[int],
) -> TokenAutomaton:
  """Reads every token from every state.

  Args:
    reader: the machine.
    strings: symbols of each token, None for tokens that cannot occur.
    added: token of each of the machine's added tokens; they are read whole.
  """
  ends, levels = _trie(reader, strings)
  effect, after = _effects(reader.delta, levels)
  used, kind = np.unique(
    np.where(ends >= 0, effect[ends], DEAD), return_inverse=True
  )
  # A last kind for tokens that cannot occur.
  none = np.full((1, len(reader.delta)), DEAD, after.dtype)
  table = np.concatenate([after, none])[used]
  kind[np.array(added, int)] = len(table) + np.arange(len(added))
  table = np.concatenate([table, reader.added.T, none])

  # The states between tokens.
  met = np.zeros(len(reader.delta) + 1, bool)
  frontier = np.unique(reader.starts)
  while len(frontier):
    met[frontier] = True
    found = np.append(np.unique(table[:, frontier]), reader.cut[frontier])
    frontier = np.unique(found[(found != DEAD) & ~met[found]])
  states = np.flatnonzero(met)
  rename = np.full(len(met), DEAD)
  rename[states] = np.arange(len(states))
  return _reduce(
    TokenAutomaton(
      next=rename[table[:, states].T],
      cut=rename[reader.cut[states]],
      ends=reader.ends[states],
      kind=kind,
      starts=tuple(int(rename[q]) for q in reader.starts),
    )
  )


def _trie(reader, strings):
  """All different strings of tokens as one trie, level by level.

  Symbols that do the same to every state are one symbol.

  Returns:
    The end of each token's string (-1 if it has none), numbered through all
    levels; and `[(parent in the level above, symbol)]` of each level.
  """
  first, alike = unique_rows(np.ascontiguousarray(reader.delta.T))
  longest = max((len(s) for s in strings if s is not None), default=0)
  ends = np.full(len(strings), -1)
  tokens = np.array([k for k, s in enumerate(strings) if s is not None], int)
  length = np.array([len(strings[k]) for k in tokens], int)
  symbols = np.full((len(tokens), longest), 0)
  flat = np.concatenate([strings[k] for k in tokens]) if len(tokens) else []
  symbols[np.arange(longest) < length[:, None]] = alike[np.array(flat, int)]
  node = np.zeros(len(tokens), int)
  levels, total = [], 0
  for depth in range(longest):
    on = length > depth
    key = node[on] * len(first) + symbols[on, depth]
    unique, node_on = np.unique(key, return_inverse=True)
    node[on] = node_on
    levels.append((unique // len(first), first[unique % len(first)]))
    done = on & (length == depth + 1)
    ends[tokens[done]] = total + node[done]
    total += len(unique)
  return ends, levels


def _effects(delta, levels):
  """Effect of the string at each trie node on all states.

  Many strings have the same effect, so few of their continuations are run.

  Returns:
    Number of each node's effect, the nodes numbered through all levels; and
    `[effects, S]` the state after each effect from each state.
  """
  count = len(delta)
  narrow = np.int16 if count < 2**15 else np.int32
  by_symbol = np.pad(delta.T, ((0, 0), (0, 1)), constant_values=DEAD)
  by_symbol = np.ascontiguousarray(by_symbol, narrow)
  numbers = {np.arange(count, dtype=narrow).tobytes(): 0}
  rows = [np.arange(count, dtype=narrow)]
  above, effect = np.zeros(1, int), []
  for parent, symbol in levels:
    key, which = np.unique(
      above[parent] * len(by_symbol) + symbol, return_inverse=True
    )
    found = np.empty(len(key), int)
    for k, (before, symbol_) in enumerate(
      zip(*divmod(key, len(by_symbol)), strict=True)
    ):
      after = by_symbol[symbol_][rows[before]]
      found[k] = numbers.setdefault(after.tobytes(), len(rows))
      if found[k] == len(rows):
        rows.append(after)
    above = found[which]
    effect.append(above)
  none = np.zeros(0, int)
  return np.concatenate([none, *effect]), np.stack(rows)


def _reduce(raw: TokenAutomaton) -> TokenAutomaton:
  """Merges equal kinds and equal states."""
  used, kind = np.unique(raw.kind, return_inverse=True)
  first, same = unique_rows(np.ascontiguousarray(raw.next[:, used].T))
  table, kind = raw.next[:, used[first]], same[kind]
  table = np.concatenate([table, raw.cut[:, None]], axis=1)
  table, ends, label = byte_dfa.minimize(table, raw.ends.astype(np.int8))
  first, same = unique_rows(np.ascontiguousarray(table[:, :-1].T))
  return TokenAutomaton(
    next=table[:, first].astype(np.int32),
    cut=table[:, -1].astype(np.int32),
    ends=ends.astype(bool),
    kind=same[kind].astype(np.int32),
    starts=tuple(int(label[q]) for q in raw.starts),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PieceLaw:
  """Rule for the tokens of a whole piece, as an automaton over them.

  Its states are small ints. Every token that `steps` does not mention at a
  state leads to `others`; from there on only `barred` matters.

  Attributes:
    first: the state at the start of a piece.
    others: the state after any token not mentioned.
    steps: `{state: {token: state}}`, with `DEAD` for what cannot follow.
    barred: tokens that cannot stand anywhere unless `steps` mentions them.
    open: states in which the piece cannot end.
    closed: states in which nothing but the end of the piece can follow.
  """

  first: int
  others: int
  steps: dict[int, dict[int, int]]
  barred: frozenset[int]
  open: frozenset[int]
  closed: frozenset[int]


def restrict_pieces(raw: TokenAutomaton, law: PieceLaw) -> TokenAutomaton:
  """The product with a law about whole pieces."""
  named = set(law.barred).union(*(step.keys() for step in law.steps.values()))
  tokens = np.array(sorted(named), int)
  column = {token: raw.next.shape[1] + k for k, token in enumerate(tokens)}
  kind = raw.kind.copy()
  kind[tokens] = [column[token] for token in tokens]
  table = np.concatenate([raw.next, raw.next[:, raw.kind[tokens]]], axis=1)
  barred = [column[token] for token in law.barred]

  # The first states are those where the law is at `others`.
  states: list[tuple[int, int]] = []
  names: dict[tuple[int, int], int] = {}

  def name(state: int, at: int) -> int:
    if state == DEAD or at == DEAD:
      return DEAD
    if (state, at) not in names:
      names[state, at] = len(names)
      states.append((state, at))
    return names[state, at]

  for state in range(len(raw.next)):
    name(state, law.others)
  starts = tuple(name(state, law.first) for state in raw.starts)
  rows, cuts, ends = [], [], []
  while len(rows) < len(states):
    state, at = states[len(rows)]
    row = table[state].copy()
    row[barred] = DEAD
    if at in law.closed:
      row[:] = DEAD
    for token, after in law.steps.get(at, {}).items():
      row[column[token]] = name(table[state, column[token]], after)
    can_end = at not in law.open
    rows.append(row)
    cuts.append(name(raw.cut[state], law.first) if can_end else DEAD)
    ends.append(raw.ends[state] and can_end)
  return _reduce(
    TokenAutomaton(
      next=np.stack(rows),
      cut=np.array(cuts),
      ends=np.array(ends),
      kind=kind,
      starts=starts,
    )
  )


def without(
  raw: TokenAutomaton,
  of_kind: Sequence[np.ndarray],
  fine: dict[tuple[int, int], np.ndarray],
) -> TokenAutomaton:
  """The automaton without the steps that are not fine.

  Args:
    raw: the automaton.
    of_kind: the tokens of each kind.
    fine: for `(state after, kind)`, whether each token of the kind may lead
      there; all may where nothing is said.
  """
  bad: dict[int, set[int]] = {}
  for (state, kind), ok in fine.items():
    for token in of_kind[kind][~ok]:
      bad.setdefault(int(token), set()).add(state)
  groups: dict[tuple, list[int]] = {}
  for token, states in bad.items():
    key = (int(raw.kind[token]), tuple(sorted(states)))
    groups.setdefault(key, []).append(token)
  kind, columns = raw.kind.copy(), [raw.next]
  for k, ((old, states), tokens) in enumerate(groups.items()):
    column = raw.next[:, old]
    columns.append(np.where(np.isin(column, states), DEAD, column)[:, None])
    kind[tokens] = raw.next.shape[1] + k
  return _reduce(
    dataclasses.replace(raw, next=np.concatenate(columns, 1), kind=kind)
  )
