"""Host: which nodes go to the model in which call, and where in the cache.

The whole tree of a text is known before the model is called, so the cache
holds what later calls attend to and no more: a slot is free again as soon as
its node has no descendants to come.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from byteprob import token_tree
from byteprob.errors import PromptError
from byteprob.rules.common import NONE
from byteprob.token_tree import ROOT
from byteprob.tokenization.tables import Tables

_Item = TypeVar("_Item", bound=Hashable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringQuery:
  """A text to score.

  Attributes:
    prefix: token ids before the text, at least one.
    text: bytes of the working text.
    start: state of the automaton where the text starts.
  """

  prefix: tuple[int, ...]
  text: bytes
  start: int


def round_up_to_bucket(count: int) -> int:
  """The padded size: 64, powers of two, then steps of an eighth of one."""
  power = 1 << max(count - 1, 63).bit_length()
  if power <= 128:
    return power
  step = power // 8
  return -(-count // step) * step


def pad_texts(
  queries: Sequence[ScoringQuery], more: int = 0
) -> tuple[UInt8[np.ndarray, "B n"], Int[np.ndarray, " B"]]:
  """The texts, padded for at least `more` bytes, and their lengths."""
  length = np.array([len(query.text) for query in queries], np.int32)
  text = np.zeros(
    (len(queries), round_up_to_bucket(int(length.max()) + more)), np.uint8
  )
  for row, query in zip(text, queries, strict=True):
    row[: len(query.text)] = np.frombuffer(query.text, np.uint8)
  return text, length


def distinct(
  items: Sequence[_Item],
) -> tuple[list[_Item], Int[np.ndarray, " B"]]:
  """Each item once, and which of these stands at every place."""
  found = {item: k for k, item in enumerate(dict.fromkeys(items))}
  return list(found), np.array([found[item] for item in items], np.int32)


def spread(tree: Any, places: Int[np.ndarray, " B"]) -> Any:
  """A batch of distinct elements, put at all their places; see `distinct`."""
  if len(places) == len(jax.tree.leaves(tree)[0]):
    return tree
  return jax.tree.map(lambda leaf: leaf[places], tree)


def take(tree: Any, k: int) -> Any:
  """One element of a batch."""
  return jax.tree.map(lambda leaf: leaf[k], tree)


def fronts(
  queries: Sequence[ScoringQuery],
  path: token_tree.FrontierHistory,
  first: Sequence[int],
) -> token_tree.FrontierHistory:
  """Live starts after prefixes of texts, `[B, P, W]`, on the host.

  `P` and `W` are bucketed; `W` is as large as need be. After nothing there is
  the root.

  Args:
    queries: the texts.
    path: theirs, on the host.
    first: length of the shortest prefix, of each.
  """
  sizes = [len(query.text) for query in queries]
  live = [
    (path.node[k, :size] != NONE).sum(1).max(initial=1)
    for k, size in enumerate(sizes)
  ]
  width = 8
  while width < max(live):
    width *= 4
  width = min(width, path.node.shape[2])
  most = max(size - start for size, start in zip(sizes, first, strict=True))
  shape = (len(queries), round_up_to_bucket(most + 1), width)
  node, place = np.full(shape, NONE, np.int32), np.full(shape, ROOT, np.int32)
  for k, (size, start) in enumerate(zip(sizes, first, strict=True)):
    after = max(start, 1)
    own = slice(after - start, size + 1 - start)
    node[k, own] = path.node[k, after - 1 : size, :width]
    place[k, own] = path.place[k, after - 1 : size, :width]
    if start == 0:
      node[k, 0, 0] = 0
  return token_tree.FrontierHistory(node, place)


class PrefillChunk(NamedTuple):
  """The inputs of one model call, `[B, R]` each but where it says.

  Attributes:
    first: `[]` number of the first row.
    token: model ids.
    position: rows before each on its path.
    slot: where in the cache each goes.
    attends: `[B, R, S]`.
    standing: `[B, R, ...]` what decides on what may follow the node.
    end: where the node ends; past the text for rows that are no nodes.
    front_row: `[B, W]` row of each live start that is asked about, -1 if it
      is in another chunk.
    front_place: `[B, W]` its trie node.
  """

  first: np.ndarray
  token: np.ndarray
  position: np.ndarray
  slot: np.ndarray
  attends: np.ndarray
  standing: token_tree.MaskInputs
  end: np.ndarray
  front_row: np.ndarray
  front_place: np.ndarray


class _Tree:
  """The rows of one text: its prefix, then its nodes but the root."""

  def __init__(
    self,
    query: ScoringQuery,
    tables: Tables,
    nodes: token_tree.TokenTree,
    standing: token_tree.MaskInputs,
  ):
    count, prefix = int(nodes.count) - 1, len(query.prefix)
    self.offset = prefix - 1
    own = slice(1, 1 + count)
    ids = np.asarray(tables.token_id)[nodes.token[own]]
    self.token = np.concatenate([np.array(query.prefix, np.int32), ids])
    self.parent = np.concatenate(
      [np.arange(-1, prefix - 1), self.offset + nodes.parent[own]]
    ).tolist()
    self.position = np.concatenate(
      [np.arange(prefix), self.offset + nodes.depth[own]]
    )
    # A row of the prefix is no node, but for the last: the root.
    self.end = np.concatenate(
      [np.full(self.offset, len(query.text)), nodes.end[: count + 1]]
    )

    def by_row(leaf):
      leaf = leaf[: count + 1]
      none = np.full((self.offset, *leaf.shape[1:]), NONE, leaf.dtype)
      return np.concatenate([none, leaf])

    self.standing = jax.tree.map(by_row, standing)

  def assign_slots(self, rows: int, live: np.ndarray) -> tuple[list[int], int]:
    """Slots of all rows, in chunks of `rows`, and how many there must be.

    The nodes that are still live at the text's end keep theirs.
    """
    size = len(self.token)
    needed = [at // rows for at in range(size)]
    for node in live.tolist():
      needed[self.offset + node] = size
    for at in range(size - 1, 0, -1):
      up = self.parent[at]
      needed[up] = max(needed[up], needed[at])
    slots, free, used = [], [], 0
    ending: dict[int, list[int]] = {}
    for at in range(size):
      if at % rows == 0:
        free += ending.pop(at // rows - 1, [])
      if free:
        slots.append(free.pop())
      else:
        slots.append(used)
        used += 1
      ending.setdefault(needed[at], []).append(slots[-1])
    return slots, used


class PrefillSchedule:
  """Which rows go to the model when, and where in the cache.

  Attributes:
    offset: `int32[B]` row of each text's root.
    chunks: number of model calls.
    rows: rows of each call, for one text.
    slots: of the cache, for one text.
  """

  def __init__(
    self,
    tables: Tables,
    queries: Sequence[ScoringQuery],
    nodes: token_tree.TokenTree,
    front: token_tree.Front,
    standing: token_tree.MaskInputs,
    *,
    most: int,
    context_length: int,
    asked: token_tree.FrontierHistory,
  ):
    """Plans the calls.

    Args:
      tables: the tokenizer.
      queries: the texts.
      nodes, front, standing: of each text, on the host.
      most: rows of one call, for one text, at most.
      context_length: see `Model`.
      asked: live starts that something is asked about, `[B, W]`.

    Raises:
      PromptError: a text is longer than the context.
    """
    self.front = front
    self._asked = asked
    self.trees = [
      _Tree(query, tables, *take((nodes, standing), k))
      for k, query in enumerate(queries)
    ]
    for tree, query in zip(self.trees, queries, strict=True):
      if (longest := int(tree.position.max()) + 1) > context_length:
        raise PromptError(
          f"The text needs {longest} tokens ({len(query.text)} bytes after"
          f" {len(query.prefix)} tokens) and the model's context has"
          f" {context_length}; shorten it."
        )
    self.offset = np.array([tree.offset for tree in self.trees], np.int32)
    size = max(len(tree.token) for tree in self.trees)
    self.chunks = -(-size // most)
    self.rows = min(round_up_to_bucket(-(-size // self.chunks)), most)
    self.chunks = -(-size // self.rows)
    allotted = [
      tree.assign_slots(self.rows, live[live >= 0])
      for tree, live in zip(self.trees, front.node, strict=True)
    ]
    self.slot_of = [slots for slots, _ in allotted]
    used = max(self.rows, *(used for _, used in allotted))
    # Coarsely: a shape that is new costs more time than slots left empty.
    self.slots = used if self.chunks == 1 else 1 << (used - 1).bit_length()

  def chunk(self, number: int) -> PrefillChunk:
    """The inputs of a model call."""
    first = number * self.rows
    parts = [
      self._rows(tree, slots, first)
      for tree, slots in zip(self.trees, self.slot_of, strict=True)
    ]
    token, position, slot, attends, standing, end = jax.tree.map(
      lambda *leaves: np.stack(leaves), *parts
    )
    node, place = self._asked
    row = node + self.offset[:, None] - first
    here = (node >= 0) & (row >= 0) & (row < self.rows)
    return PrefillChunk(
      first=np.int32(first),
      token=token,
      position=position,
      slot=slot,
      attends=attends,
      standing=standing,
      end=end,
      front_row=np.where(here, row, NONE).astype(np.int32),
      front_place=np.where(here, place, 0).astype(np.int32),
    )

  def attends(self) -> Bool[np.ndarray, "B W S"]:
    """Slots of each live start at the text's end, and of its ancestors."""
    found = np.zeros((*self.front.node.shape, self.slots), bool)
    for rows, tree, slots, live in zip(
      found, self.trees, self.slot_of, self.front.node, strict=True
    ):
      for row, node in zip(rows, live.tolist(), strict=True):
        at = tree.offset + node if node >= 0 else NONE
        while at >= 0:
          row[slots[at]] = True
          at = tree.parent[at]
    return found

  def path(self, k: int, node: int) -> list[int]:
    """Slots of a node of text `k` and of all rows before it, in their order."""
    tree, slots = self.trees[k], self.slot_of[k]
    found, at = [], tree.offset + node
    while at >= 0:
      found.append(slots[at])
      at = tree.parent[at]
    return found[::-1]

  def _rows(self, tree: _Tree, slots: list[int], first: int):
    own = slice(first, first + self.rows)
    count = len(tree.token[own])

    def pad(values, fill):
      shape = (self.rows, *np.shape(values)[1:])
      padded = np.full(shape, fill, np.int32)
      padded[:count] = values
      return padded

    attends = np.zeros((self.rows, self.slots), bool)
    for at in range(first, first + count):
      up, row = tree.parent[at], attends[at - first]
      if up >= first:
        row[:] = attends[up - first]
      else:
        while up >= 0:
          row[slots[up]] = True
          up = tree.parent[up]
      row[slots[at]] = True
    return (
      pad(tree.token[own], 0),
      pad(tree.position[own], 0),
      pad(np.array(slots[own], np.int32), self.slots),
      attends,
      jax.tree.map(lambda leaf: pad(leaf[own], NONE), tree.standing),
      pad(tree.end[own], np.iinfo(np.int32).max),
    )
