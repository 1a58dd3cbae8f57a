"""Host: from the cutting of characters to a machine that reads symbols.

`explore` runs a `SplitNfa` into a minimal deterministic automaton over
character classes; `build` lets it read bytes as well, through UTF-8, so that
it can stop inside a character, where a token may.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from byteprob.tokenization import split_nfa

DEAD = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutDfa:
  """The deterministic automaton of a tokenizer's marked texts.

  Attributes:
    plain: `int32[D, C]` state after a character that no mark precedes.
    cut: `int32[D, C]` state after a mark and a character.
    plain_added, cut_added: `int32[D, A]` the same for whole added tokens.
    ends: `bool[D]` whether the text may end here.
    starts: the start states asked for.
  """

  plain: np.ndarray
  cut: np.ndarray
  plain_added: np.ndarray
  cut_added: np.ndarray
  ends: np.ndarray
  starts: tuple[int, ...]


def explore(
  automaton: split_nfa.SplitNfa,
  starts: Sequence[frozenset],
  classes: int,
) -> CutDfa:
  """All states that texts lead to, merged where nothing tells them apart.

  Args:
    automaton: the cutting; the tokens of its added levels, one level after
      the other, are numbered through.
    starts: its start states.
    classes: the number of character classes.
  """
  names: dict[frozenset, int] = {}
  queue: list[frozenset] = []

  def name(states: frozenset) -> int:
    if not states:
      return DEAD
    if states not in names:
      names[states] = len(names)
      queue.append(states)
    return names[states]

  kins, first, added = automaton.kins_of(), {}, 0
  for level, part in enumerate(automaton.levels):
    first[level] = added
    added += len(getattr(part, "texts", ()))
  begin = tuple(name(start) for start in starts)
  rows: list[np.ndarray] = []
  while len(rows) < len(queue):
    states = queue[len(rows)]
    row = np.full(2 * (classes + added), DEAD, np.int32)
    for cut in (0, 1):
      for char in range(classes):
        row[cut * classes + char] = name(automaton.step(states, cut, char))
      for level, after, tokens in automaton.take_all(states, cut, kins):
        at = 2 * classes + cut * added + first[level]
        row[at + np.array(tokens)] = name(after)
    rows.append(row)
  ends = np.array([automaton.ends(states) for states in queue], np.int8)
  table, ends, label = minimize(np.array(rows), ends)
  plain, cut, plain_added, cut_added = np.split(
    table, [classes, 2 * classes, 2 * classes + added], axis=1
  )
  return CutDfa(
    plain=plain,
    cut=cut,
    plain_added=plain_added,
    cut_added=cut_added,
    ends=ends.astype(bool),
    starts=tuple(int(label[state]) for state in begin),
  )


def minimize(table: np.ndarray, ends: np.ndarray):
  """Drops states from which no end is reached and merges equal ones.

  Args:
    table: `int32[Q, K]` transitions, `DEAD` for none.
    ends: `int[Q]` what an observer sees of a state; 0 is not an end.

  Returns:
    The new table and ends, and `int[Q]` each old state's new one (`DEAD` for
    those dropped). New states keep the old order.
  """
  live = ends != 0
  while True:
    grown = live | (live[table] & (table != DEAD)).any(1)
    if (grown == live).all():
      break
    live = grown
  table = np.where((table != DEAD) & live[table], table, DEAD)
  label = np.where(live, unique_rows(ends[:, None])[1], DEAD)
  count = 0
  while (groups := len(np.unique(label[live]))) != count:
    count = groups
    seen = np.where(table == DEAD, DEAD, label[table])
    seen = np.concatenate([label[:, None], seen], axis=1)
    label = np.full(len(table), DEAD)
    label[live] = unique_rows(seen[live])[1]
  members = np.flatnonzero(live)
  kept = members[np.sort(np.unique(label[members], return_index=True)[1])]
  rename = np.full(len(table), DEAD)
  rename[label[kept]] = np.arange(len(kept))
  label = np.where(live, rename[label], DEAD)
  rows = table[kept]
  return np.where(rows == DEAD, DEAD, label[rows]), ends[kept], label


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Index of the first of each different row, and each row's number."""
  rows = np.ascontiguousarray(rows)
  if not rows.size:
    return np.zeros(min(len(rows), 1), int), np.zeros(len(rows), int)
  whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
  _, first, inverse = np.unique(
    whole[:, 0], return_index=True, return_inverse=True
  )
  return first, inverse.reshape(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
  """A `CutDfa` that reads symbols: bytes `0..255`, then `256 + class`.

  A state is a place between two symbols; it knows whether a mark has just
  been read. Bytes may stop inside a character; classes read a whole one.

  Attributes:
    delta: `int32[S, 256 + C]` state after a symbol.
    cut: `int32[S]` state after a mark, `DEAD` inside characters.
    added: `int32[S, A]` state after a whole added token.
    ends: `bool[S]` whether the text may end here.
    starts: the start states.
  """

  delta: np.ndarray
  cut: np.ndarray
  added: np.ndarray
  ends: np.ndarray
  starts: tuple[int, ...]


def build(dfa: CutDfa, graph: np.ndarray) -> Machine:
  """Lets a `CutDfa` read bytes along a UTF-8 graph (`utf8.graph`)."""
  count, classes = dfa.plain.shape
  # State 2 d + m: DFA state d, m = a mark has just been read.
  steps = np.stack([dfa.plain, dfa.cut], axis=1).reshape(2 * count, classes)
  steps = np.where(steps == DEAD, DEAD, 2 * steps)
  # Inside a character all that matters is where its classes will lead: for
  # each node of the graph, as many states as there are ways of that.
  under = _classes_under(graph)
  first: list[np.ndarray] = []
  row: list[np.ndarray] = []
  base: list[int] = []
  total = 2 * count
  for node in range(len(graph)):
    chosen, which = unique_rows(steps[:, under[node]])
    first.append(chosen)
    row.append(which)
    base.append(total)
    total += len(chosen) if node else 0

  def follow(states, edges):
    """`[len(states), 256]` states after each byte."""
    after = np.full((len(states), 256), DEAD)
    for byte in np.flatnonzero(edges != DEAD):
      edge = edges[byte]
      if edge < DEAD:
        after[:, byte] = steps[states, -2 - edge]
      else:
        after[:, byte] = base[edge] + row[edge][states]
    return after

  delta = np.full((total, 256 + classes), DEAD, np.int32)
  delta[: 2 * count, :256] = follow(np.arange(2 * count), graph[0])
  delta[: 2 * count, 256:] = steps
  for node in range(1, len(graph)):
    own = slice(base[node], base[node] + len(first[node]))
    delta[own, :256] = follow(first[node], graph[node])
  cut = np.full((len(delta), 1), DEAD, np.int32)
  cut[0 : 2 * count : 2, 0] = np.arange(1, 2 * count, 2)
  added = np.full((len(delta), dfa.plain_added.shape[1]), DEAD, np.int32)
  taken = np.stack([dfa.plain_added, dfa.cut_added], axis=1)
  taken = taken.reshape(2 * count, -1)
  added[: 2 * count] = np.where(taken == DEAD, DEAD, 2 * taken)
  ends = np.zeros(len(delta), np.int8)
  ends[0 : 2 * count : 2] = dfa.ends
  # Columns that are alike are compared once.
  table = np.concatenate([delta, cut, added], axis=1)
  columns, alike = unique_rows(np.ascontiguousarray(table.T))
  table, ends, label = minimize(table[:, columns], ends)
  delta, cut, added = np.split(
    table[:, alike], [delta.shape[1], delta.shape[1] + 1], axis=1
  )
  return Machine(
    delta=delta.astype(np.int32),
    cut=cut[:, 0].astype(np.int32),
    added=added.astype(np.int32),
    ends=ends.astype(bool),
    starts=tuple(int(label[2 * state]) for state in dfa.starts),
  )


def _classes_under(graph: np.ndarray) -> list[np.ndarray]:
  """The classes that each node of a UTF-8 graph can end in."""
  found = [np.unique(-2 - edges[edges < DEAD]) for edges in graph]
  for _ in range(3):  # a character has at most four bytes
    found = [
      np.unique(
        np.concatenate([own, *(found[v] for v in np.unique(edges[edges > 0]))])
      )
      for own, edges in zip(found, graph, strict=True)
    ]
  return found
