"""Host: a sorted vocabulary is a trie; this names its nodes, and reads them."""

import dataclasses

import numpy as np

from byteprob.errors import UnsupportedTokenizerError
from byteprob.tokenization import cuckoo
from byteprob.tokenization.tables import Tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trie:
  """The prefixes of a sorted vocabulary, `[M]` each; node 0 is the root.

  The children of a node have consecutive numbers, by byte.

  Attributes:
    low, high: the tokens that start with the node's bytes, `[low, high)`.
    depth: number of bytes.
    byte: the last of them.
    first_child, children: number of the first child, and how many there are.
  """

  low: np.ndarray
  high: np.ndarray
  depth: np.ndarray
  byte: np.ndarray
  first_child: np.ndarray
  children: np.ndarray


def build(tokens: list[bytes]) -> tuple[Trie, np.ndarray]:
  """The trie of tokens in sorted order, and each token's node."""
  length = np.array([len(token) for token in tokens], np.int64)
  longest = int(length.max(initial=0))
  spelled = np.zeros((len(tokens), longest), np.int64)
  spelled[np.arange(longest) < length[:, None]] = np.frombuffer(
    b"".join(tokens), np.uint8
  )
  node = np.zeros(len(tokens), np.int64)
  low, high = [np.zeros(1, int)], [np.full(1, len(tokens))]
  depth, byte = [np.zeros(1, int)], [np.zeros(1, int)]
  parents, total = [np.zeros(0, int)], 1
  for at in range(longest):
    on = np.flatnonzero(length > at)
    key = node[on] * 256 + spelled[on, at]
    unique, first, inverse, counts = np.unique(
      key, return_index=True, return_inverse=True, return_counts=True
    )
    low.append(on[first])
    high.append(on[first] + counts)
    depth.append(np.full(len(unique), at + 1))
    byte.append(unique % 256)
    parents.append(unique // 256)
    node[on] = total + inverse
    total += len(unique)
  parent = np.concatenate(parents)
  numbers = np.arange(1, total)
  children = np.bincount(parent, minlength=total)
  first_child = np.zeros(total, np.int64)
  # Levels are numbered in order of (parent, byte): siblings stand together.
  first_child[parent[::-1]] = numbers[::-1]
  trie = Trie(
    low=np.concatenate(low),
    high=np.concatenate(high),
    depth=np.concatenate(depth),
    byte=np.concatenate(byte),
    first_child=first_child,
    children=children,
  )
  return trie, node


def child_table(trie: Trie) -> np.ndarray:
  """The hash table of a trie's children; see `Tables.child`.

  Raises:
    UnsupportedTokenizerError: there are too many for 24 bits.
  """
  count = len(trie.byte)
  if count >= 2**24:
    raise UnsupportedTokenizerError(
      f"This tokenizer's tokens begin in {count} ways; 16777215 is the limit."
    )
  # Numbers go up with those of the parents.
  number = np.arange(count, dtype=np.int32)
  parent = np.repeat(number, trie.children)
  byte = trie.byte[1:].astype(np.int32)
  return cuckoo.table(parent, byte, (parent << 8) | byte, number[1:])


def spell_all(tables: Tables) -> list[bytes]:
  """The bytes of every token, in the order of `tables.token_id`."""
  low, high = np.asarray(tables.low), np.asarray(tables.high)
  children, byte = np.asarray(tables.children), np.asarray(tables.node_byte)
  length = np.asarray(tables.length)
  spelled = np.zeros((len(length), tables.longest), np.uint8)
  level = slice(0, 1)
  for at in range(tables.longest):
    # A level's nodes follow on those of the level above, in sorted order.
    level = slice(level.stop, level.stop + int(children[level].sum()))
    below = high[level] - low[level]
    spelled[length > at, at] = np.repeat(byte[level], below)
  return [
    row[:size].tobytes() for row, size in zip(spelled, length, strict=True)
  ]
