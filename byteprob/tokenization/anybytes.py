"""Host: a `CutDfa` that reads any bytes, not only UTF-8.

A byte that is part of no character is a character of its own, cut as U+FFFD
is. Whether it is one may show only later: after `E4 B8`, a third continuation
makes a character of all three, and anything else makes two lone bytes of the
first two. So both ways are followed until the bytes decide.
"""

import numpy as np

from byteprob.tokenization.byte_dfa import (
  DEAD,
  CutDfa,
  Machine,
  minimize,
  unique_rows,
)


def build(
  dfa: CutDfa,
  graph: np.ndarray,
  lone: int,
  missing: frozenset[int],
) -> Machine:
  """Lets a `CutDfa` read any bytes.

  Args:
    dfa: the automaton.
    graph: from `utf8.graph`, of all characters; those of a class past the
      automaton's must not be spelled byte by byte.
    lone: class of a byte that is part of no character.
    missing: bytes that cannot be written.
  """
  count, classes = dfa.plain.shape
  steps = np.stack([dfa.plain, dfa.cut], axis=1).reshape(2 * count, classes)
  steps = np.where(steps == DEAD, DEAD, 2 * steps)
  steps = np.pad(steps, ((0, 0), (0, 1)), constant_values=DEAD)
  rows = steps.tolist()
  # Inside a character all that matters is where its classes will lead.
  used = np.unique(-2 - graph[1:][graph[1:] < DEAD])
  first, alike = unique_rows(steps[:, used])
  before_of = first[alike].tolist()

  def between(state: int, byte: int):
    """States after a byte that comes where a character may begin."""
    edge = int(graph[0, byte])
    if edge < DEAD:
      yield (rows[state][-2 - edge], None, 0)
    elif edge == DEAD:
      yield (rows[state][lone], None, 0)
    else:
      yield (None, before_of[state], edge)
      yield (rows[state][lone], None, edge)

  def read(states: frozenset, byte: int) -> frozenset:
    """States are `(state, None, 0)` between characters, `(None, state before
    it, node)` inside one, and `(state, None, node)` after lone bytes that must
    not turn out to be one.
    """
    found = set()
    for state, before, node in states:
      edge = int(graph[node, byte]) if node else DEAD
      if before is not None:
        if edge > 0:
          found.add((None, before, edge))
        elif edge < DEAD:
          found.add((rows[before][-2 - edge], None, 0))
      elif edge > 0:
        found.add((rows[state][lone], None, edge))
      elif edge == DEAD:
        found.update(between(state, byte))
    return _alive(found)

  names: dict[frozenset, int] = {}
  queue: list[frozenset] = []

  def name(states) -> int:
    states = _alive(states)
    if not states:
      return DEAD
    if states not in names:
      names[states] = len(names)
      queue.append(states)
    return names[states]

  first, alike = unique_rows(np.ascontiguousarray(graph.T))
  spelled = [byte not in missing for byte in range(256)]
  # Bytes with equal edges lead to equal states.
  groups = [np.flatnonzero((alike == k) & spelled) for k in range(len(first))]
  added_count = dfa.plain_added.shape[1]
  taken = np.stack([dfa.plain_added, dfa.cut_added], axis=1)
  taken = taken.reshape(2 * count, added_count)
  starts = tuple(name({(2 * s, None, 0)}) for s in dfa.starts)
  table, ends = [], []
  width = 256 + classes + 1 + added_count
  while len(table) < len(queue):
    states = queue[len(table)]
    row = np.full(width, DEAD, np.int32)
    for bytes_ in groups:
      if len(bytes_):
        row[bytes_] = name(read(states, int(bytes_[0])))
    open_ = [state for state, before, _ in states if before is None]
    for char in range(classes):
      row[256 + char] = name({(rows[s][char], None, 0) for s in open_})
    marked = {
      (state + 1, None, node)
      for state, before, node in states
      if before is None and state % 2 == 0
    }
    row[256 + classes] = name(marked)
    for state in open_:
      after = taken[state]
      for token in np.flatnonzero(after != DEAD):
        row[257 + classes + token] = name({(2 * int(after[token]), None, 0)})
    table.append(row)
    ends.append(any(s % 2 == 0 and dfa.ends[s // 2] for s in open_))
  return _machine(np.stack(table), np.array(ends, np.int8), starts, classes)


def _alive(states) -> frozenset:
  return frozenset(s for s in states if s[0] is None or s[0] != DEAD)


def _machine(table, ends, starts, classes) -> Machine:
  table, ends, label = minimize(table, ends)
  cut = 256 + classes
  return Machine(
    delta=table[:, :cut].astype(np.int32),
    cut=table[:, cut].astype(np.int32),
    added=table[:, cut + 1 :].astype(np.int32),
    ends=ends.astype(bool),
    starts=tuple(int(label[start]) for start in starts),
  )
