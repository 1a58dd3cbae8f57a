"""Host: UTF-8 as a small graph that ends in character classes."""

import numpy as np

from byteprob.tokenization.byte_dfa import DEAD, unique_rows
from byteprob.tokenization.charclass import CODE_POINTS


def graph(label: np.ndarray, missing: frozenset[int] = frozenset()):
  """The graph of the UTF-8 encodings of all characters that have a class.

  Nodes whose continuations end in the same classes are one, so there are a
  few dozen where the classes are Unicode's.

  Args:
    label: `int32[0x110000]` class of each code point, negative for none.
    missing: bytes that cannot be written; what needs one is left out.

  Returns:
    `int32[M, 256]`: from node 0 (between characters), `DEAD`, a node, or, for
    a byte that completes a character, `~node - 1`, that is `-2 - class`.
  """
  tails = np.array([byte not in missing for byte in range(0x80, 0xC0)])
  leaf = np.where(label >= 0, -2 - label, DEAD).astype(np.int64)
  nodes = [np.full((1, 256), DEAD)]
  count = 1

  def inner(blocks: np.ndarray) -> np.ndarray:
    """Nodes for blocks of 64 continuations, `DEAD` where nothing follows."""
    nonlocal count
    blocks = np.where(tails, blocks, DEAD)
    first, which = unique_rows(blocks)
    rows = np.full((len(first), 256), DEAD)
    rows[:, 0x80:0xC0] = blocks[first]
    some = (rows != DEAD).any(1)
    names = np.where(some, count + np.cumsum(some) - 1, DEAD)
    nodes.append(rows[some])
    count += int(some.sum())
    return names[which]

  root = np.full(256, DEAD)
  root[:0x80] = leaf[:0x80]
  last = inner(leaf.reshape(-1, 64))  # by code point >> 6
  root[0xC2:0xE0] = last[0x80 >> 6 : 0x800 >> 6]
  # Below U+0800 and U+10000 the longer forms are not UTF-8.
  three = last.copy()
  three[: 0x800 >> 6] = DEAD
  middle = inner(three.reshape(-1, 64))  # by code point >> 12
  root[0xE0:0xF0] = middle[: 0x10000 >> 12]
  four = middle.copy()
  four[: 0x10000 >> 12] = DEAD
  four = np.concatenate([four, np.full(-len(four) % 64, DEAD)])
  root[0xF0:0xF5] = inner(four.reshape(-1, 64))[: (CODE_POINTS >> 18) + 1]
  root[list(missing)] = DEAD
  nodes[0][0] = root
  return np.concatenate(nodes).astype(np.int32)
