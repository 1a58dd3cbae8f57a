"""Host: byte-pair encoding as local facts about pairs of tokens.

A sequence of tokens inside one pre-token is what BPE returns if and only if
every token is what BPE makes of its own bytes and no merge ever joins two
neighbours: a merge across the boundary of two tokens happens, or not,
whatever else stands around them. So three things say it all:

* the *derivation* of each token: the last merge that BPE makes in it;
* the *right spine* of the left token and the *left spine* of the right one:
  the symbols that stand at the boundary while the merges of each run;
* for each merge `(a, b)`, between which spines it comes first.

Time is counted in merge ranks. BPE always takes the lowest rank on offer, but
a merge may rank lower than the merges that make its parts (Gemma's white space
runs, anything with several merges a token), so a symbol has two times:
`birth`, the highest rank in its derivation, and, in a given token, `death`,
the highest rank that is merged after its birth until it is merged itself.
Equal ranks go from left to right.
"""

import dataclasses
import itertools

import numpy as np

INFINITE = np.int64(2**31 - 2)
"""The death of a token that is whole: nothing inside it merges it away."""

_ATOM = -1
"""Birth of a symbol that no merge makes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merges:
  """The merges of a tokenizer, `[R]` each, in any order.

  Attributes:
    left: token id of the left part.
    right: token id of the right part.
    whole: token id of the result.
    rank: lower goes first; equal ranks go from left to right.
  """

  left: np.ndarray
  right: np.ndarray
  whole: np.ndarray
  rank: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivations:
  """How BPE makes each token from its own bytes, `[V]` each.

  Attributes:
    left, right: the parts of the last merge; -1 for atoms and for tokens that
      BPE does not make (`reachable` tells which).
    birth: highest rank in the derivation, -1 for atoms.
    left_death: death of `left` in this token; `right_death` likewise.
    reachable: BPE makes this token of its own bytes.
  """

  left: np.ndarray
  right: np.ndarray
  birth: np.ndarray
  left_death: np.ndarray
  right_death: np.ndarray
  reachable: np.ndarray


class PairIndex:
  """Finds merges by their two parts; vectorised."""

  def __init__(self, merges: Merges, size: int):
    """Indexes `merges` over token ids below `size`.

    If one pair is listed more than once, the lowest rank is found.
    """
    self._size = np.int64(size)
    key = merges.left.astype(np.int64) * self._size + merges.right
    self._order = np.lexsort((merges.rank, key))
    self._key = key[self._order]

  def find(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Index of the merge of each pair, or -1; parts of -1 find nothing."""
    key = left.astype(np.int64) * self._size + right
    if not len(self._key):
      return np.full(key.shape, -1)
    at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
    found = (self._key[at] == key) & (left >= 0) & (right >= 0)
    return np.where(found, self._order[at], -1)


def derive(
  merges: Merges, lengths: np.ndarray, atoms: np.ndarray
) -> Derivations:
  """Derives every token from its own bytes.

  Args:
    merges: the merges.
    lengths: `int[V]` length of each token in bytes; whatever the unit, a
      token is longer than its parts.
    atoms: `bool[V]` the tokens that BPE starts from.

  Returns:
    `Derivations`.
  """
  count = len(lengths)
  index = PairIndex(merges, count)
  tree = Derivations(
    left=np.full(count, -1),
    right=np.full(count, -1),
    birth=np.full(count, _ATOM, np.int64),
    left_death=np.full(count, INFINITE),
    right_death=np.full(count, INFINITE),
    reachable=atoms.copy(),
  )
  # Parts are shorter than the whole, so lengths are a safe order. An atom is
  # never made by a merge (a one-symbol text has nothing to merge).
  made = np.flatnonzero(~atoms[merges.whole])
  order = made[np.argsort(lengths[merges.whole[made]], kind="stable")]
  cuts = np.flatnonzero(np.diff(lengths[merges.whole[order]])) + 1
  # Merges of longer tokens are not met before their parts are derived.
  for group in np.split(order, cuts):
    times = thresholds(tree, merges)
    left, right = merges.left[group], merges.right[group]
    able = tree.reachable[left] & tree.reachable[right]
    group, left, right = group[able], left[able], right[able]
    # The last merge of a token is the one whose parts do not meet earlier.
    whole = merges.whole[group]
    alone = ~_merged(tree, index, times, left, right, ignore_whole=True)
    group, left, right = group[alone], left[alone], right[alone]
    whole, rank = merges.whole[group], merges.rank[group].astype(np.int64)
    first, second = tree.birth[left], tree.birth[right]
    tree.left[whole], tree.right[whole] = left, right
    tree.birth[whole] = np.maximum(np.maximum(first, second), rank)
    # Whoever is born first waits for the other; on a tie the left is first.
    tree.left_death[whole] = np.where(
      second < first, rank, np.maximum(second, rank)
    )
    tree.right_death[whole] = np.where(
      first <= second, rank, np.maximum(first, rank)
    )
    tree.reachable[whole] = True
  return tree


def thresholds(
  tree: Derivations, merges: Merges
) -> tuple[np.ndarray, np.ndarray]:
  """When a merge `(a, b)` comes first, said for each side alone.

  It joins a left token in which `a` dies after `right_death > psi` to a right
  token in which `b` dies at `left_death >= theta`.

  Returns:
    `(psi, theta)`, `int64[R]` each.
  """
  born_a, born_b = tree.birth[merges.left], tree.birth[merges.right]
  rank = merges.rank.astype(np.int64)
  last_is_b = born_a <= born_b
  psi = np.where(last_is_b, np.maximum(rank, born_b), rank)
  theta = np.where(last_is_b, rank, np.maximum(rank, born_a))
  return psi, theta


class PairLaw:
  """Which tokens BPE leaves side by side inside a piece."""

  def __init__(self, tree: Derivations, merges: Merges):
    """The law of derived tokens."""
    self._tree = tree
    self._index = PairIndex(merges, len(tree.left))
    self._times = thresholds(tree, merges)

  def allows(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether BPE leaves each pair of reachable tokens as it is, `bool[P]`."""
    return ~_merged(
      self._tree, self._index, self._times, left, right, ignore_whole=False
    )


def _merged(tree, index, times, left, right, *, ignore_whole):
  """Whether a merge joins the tokens of each pair; see `thresholds`."""
  merged = np.zeros(len(left), bool)
  psi, theta = times
  a, death_a = left, np.full(len(left), INFINITE)
  first = True
  while (a >= 0).any():
    b, death_b = right, np.full(len(left), INFINITE)
    while (b >= 0).any():
      at = index.find(a, b)
      fires = (at >= 0) & (psi[at] < death_a) & (theta[at] <= death_b)
      if ignore_whole and first:
        fires[:] = False
      first = False
      merged |= fires
      death_b = np.where(b >= 0, tree.left_death[b], 0)
      b = np.where(b >= 0, tree.left[b], -1)
    death_a = np.where(a >= 0, tree.right_death[a], 0)
    a = np.where(a >= 0, tree.right[a], -1)
  return merged


def offers(merges: Merges) -> dict[tuple[int, int], tuple[int, int]]:
  """`(rank, whole)` of each pair, for `encode`."""
  table: dict[tuple[int, int], tuple[int, int]] = {}
  rows = zip(
    merges.left.tolist(),
    merges.right.tolist(),
    merges.rank.tolist(),
    merges.whole.tolist(),
    strict=True,
  )
  for left, right, rank, whole in rows:
    table[left, right] = min(
      (rank, whole), table.get((left, right), (rank, whole))
    )
  return table


def encode(
  symbols: list[int], table: dict[tuple[int, int], tuple[int, int]]
) -> list[int]:
  """BPE encoding of the symbols of a short piece; `table`: see `offers`."""
  symbols = list(symbols)
  while True:
    found = [
      (*table[pair], at)
      for at, pair in enumerate(itertools.pairwise(symbols))
      if pair in table
    ]
    if not found:
      return symbols
    _, whole, at = min(found, key=lambda offer: (offer[0], offer[2]))
    symbols[at : at + 2] = [whole]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
  """The tokens that may not follow a token, as runs of one fixed order.

  The tokens with `b` on their left spine are the subtree of `b` in the forest
  "token -> its left part". Numbered in post-order, children by the death of
  `b` in them, the tokens that a merge `(a, b)` joins to are one run. And the
  merges that `a` makes in a token are those with the smallest `psi`. So the
  tokens forbidden after `u` are, for each `a` on the right spine of `u`, the
  runs of a prefix of the merges of `a`.

  Attributes:
    position: `int[V]` place of each token in the order; tokens that BPE never
      makes come last, in no run.
    merge: `int[R]` index of the merge behind each run; sorted by (a, psi).
    start, stop: `int[R]` the run `[start, stop)` of each merge.
    segment_of: `int[V + 1]` the segments of token `u` are
      `segment_of[u]:segment_of[u + 1]`, from `u` itself down its right spine.
    segment_start, segment_count: `int[G]` which runs each segment holds.
    spine_of: `int[V + 1]` likewise, of the left spines.
    spine: `int[F]` tokens on the left spines, from the token itself down.
  """

  position: np.ndarray
  merge: np.ndarray
  start: np.ndarray
  stop: np.ndarray
  segment_of: np.ndarray
  segment_start: np.ndarray
  segment_count: np.ndarray
  spine_of: np.ndarray
  spine: np.ndarray


def compile_runs(tree: Derivations, merges: Merges) -> Runs:
  """Compiles what may not follow what; see `Runs`."""
  count = len(tree.left)
  position, sibling_key, sibling_start = _forest(tree)

  usable = np.flatnonzero(
    tree.reachable[merges.left] & tree.reachable[merges.right]
  )
  psi, theta = thresholds(tree, merges)
  usable = usable[np.lexsort((psi[usable], merges.left[usable]))]
  a, b, psi = merges.left[usable], merges.right[usable], psi[usable]
  # The run starts at the first child of `b` in which `b` dies late enough,
  # or at `b` itself, which closes its own subtree.
  at = np.searchsorted(sibling_key, _key(b, theta[usable]))
  inside = at < len(sibling_key)
  inside[inside] = _owner(sibling_key[at[inside]]) == b[inside]
  start = position[b].copy()
  start[inside] = sibling_start[at[inside]]

  owner, node, death = _spines(tree.right, tree.right_death, tree.reachable)
  runs_key = _key(a, psi)
  first = np.searchsorted(runs_key, _key(node, np.full(len(node), _ATOM)))
  last = np.searchsorted(runs_key, _key(node, death))
  some = last > first
  left_owner, left_node, _ = _spines(tree.left, tree.left_death, tree.reachable)
  return Runs(
    position=position,
    merge=usable,
    start=start,
    stop=position[b] + 1,
    segment_of=_offsets(owner[some], count),
    segment_start=first[some],
    segment_count=(last - first)[some],
    spine_of=_offsets(left_owner, count),
    spine=left_node,
  )


def _key(token, time):
  return token.astype(np.int64) * np.int64(2**31) + (time + 1)


def _owner(key):
  return key // np.int64(2**31)


def _offsets(owner: np.ndarray, count: int) -> np.ndarray:
  """Offsets of each owner's entries in a list sorted by owner."""
  return np.searchsorted(owner, np.arange(count + 1))


def _spines(part, death, reachable):
  """All `(token, symbol on its spine, death of the symbol in it)`."""
  token = np.flatnonzero(reachable)
  node, time = token, np.full(len(token), INFINITE)
  rows = []
  for depth in range(len(part)):
    if not len(token):
      break
    rows.append((token, np.full(len(token), depth), node, time))
    time, node = death[node], part[node]
    on = node >= 0
    token, node, time = token[on], node[on], time[on]
  owner, depth, node, time = (
    np.concatenate(x) for x in zip(*rows, strict=True)
  )
  order = np.lexsort((depth, owner))
  return owner[order], node[order], time[order]


def _forest(tree: Derivations):
  """Numbers the forest of left parts in post-order.

  Returns:
    `position[V]`, and for all tokens with a left part, sorted by (left part,
    its death): the key and the first position of the token's subtree.
  """
  count = len(tree.left)
  owner, node, _ = _spines(tree.left, tree.left_death, tree.reachable)
  size = np.bincount(node, minlength=count)
  depth = np.bincount(owner, minlength=count) - 1

  start = np.zeros(count, np.int64)
  roots = np.flatnonzero(tree.reachable & (tree.left < 0))
  start[roots] = np.cumsum(size[roots]) - size[roots]
  inner = np.flatnonzero(tree.left >= 0)
  key = _key(tree.left[inner], tree.left_death[inner])
  inner = inner[np.argsort(key, kind="stable")]
  key = np.sort(key)
  before = np.cumsum(size[inner]) - size[inner]
  parent = tree.left[inner]
  first = np.searchsorted(parent, parent)
  before -= before[first]
  for level in range(1, depth.max(initial=0) + 1):
    here = depth[inner] == level
    start[inner[here]] = start[parent[here]] + before[here]
  position = start + size - 1
  rest = np.flatnonzero(~tree.reachable)
  position[rest] = tree.reachable.sum() + np.arange(len(rest))
  return position, key, start[inner]
