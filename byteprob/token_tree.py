"""Device: the nodes of a text, byte by byte.

A *node* is a token sequence that spells a prefix of the text and that the
tokenizer can begin with. A *live start* is a node that some token still
carries past the bytes read so far. `advance` reads one byte: it follows every
live start down the trie, and where a whole token has been read and may stand
there, a new node begins. Nothing here sees a model.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from byteprob import rules
from byteprob.rules import common
from byteprob.rules.common import NONE, child
from byteprob.tokenization.tables import Tables

ROOT = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
  """How much room there is; what does not fit is reported, never dropped
  silently.

  Attributes:
    nodes: nodes of a text, the root included.
    width: live starts at once.
    born: new nodes at one byte.
    lanes: token pairs that are checked at a time.
    states: states of one node.
  """

  nodes: int
  states: int
  width: int = 32
  born: int = 4
  lanes: int = 8

  def twice(self) -> "Capacity":
    """Twice as much room for all that may not fit."""
    return dataclasses.replace(
      self,
      nodes=2 * self.nodes,
      width=2 * self.width,
      born=2 * self.born,
      states=2 * self.states,
    )


class MaskInputs(NamedTuple):
  """Arguments of the token mask of `R` nodes, `[R, ...]` each.

  Attributes:
    last: last token (in sorted order), -1 at the root.
    states: states of the automaton, padded with -1.
    forms: states of the normalization form's laws, if it has one.
    law: the rule's own argument of its `mask`, from its `by_node`.
  """

  last: Int[Array, " R"]
  states: Int[Array, "R H"]
  forms: Int[Array, "R F"]
  law: Any


class TokenTree(NamedTuple):
  """The nodes of one text, in the order of their ends; 0 is the root.

  Attributes:
    token: `int32[N]` last token (in sorted order), -1 at the root.
    parent: `int32[N]` the node without it, -1 at the root.
    end: `int32[N]` bytes spelled.
    depth: `int32[N]` tokens since the root.
    states: `int32[N, H]` states of the automaton that the node may be in, one
      for each way of cutting the text that later bytes may still decide for.
    forms: `int32[N, F]` states of the normalization form's laws.
    law: what the rule keeps of each node, `[N, ...]`.
    count: `int32[]` how many there are.
    node: `int32[N]` number of each node: its place.
  """

  token: Int[Array, " N"]
  parent: Int[Array, " N"]
  end: Int[Array, " N"]
  depth: Int[Array, " N"]
  states: Int[Array, "N H"]
  forms: Int[Array, "N F"]
  law: Any
  count: Int[Array, ""]
  node: Int[Array, " N"]


class Front(NamedTuple):
  """The live starts, in the order of their nodes.

  Attributes:
    node: `int32[W]` the node, -1 where there is none.
    place: `int32[W]` trie node of the bytes since the node's end.
    overflow: `bool[]` something has not fitted: the results are void.
  """

  node: Int[Array, " W"]
  place: Int[Array, " W"]
  overflow: Bool[Array, ""]


def begin(
  tables: Tables, capacity: Capacity, start: Int[Array, ""]
) -> tuple[TokenTree, Front]:
  """The root alone, in state `start` of the automaton."""
  count, states = capacity.nodes, capacity.states
  forms = jnp.array([form.start for form in tables.forms], jnp.int32)
  nodes = TokenTree(
    token=jnp.full((count,), NONE, jnp.int32),
    parent=jnp.full((count,), NONE, jnp.int32),
    end=jnp.zeros((count,), jnp.int32),
    depth=jnp.zeros((count,), jnp.int32),
    states=jnp.full((count, states), NONE, jnp.int32).at[0, 0].set(start),
    forms=jnp.full((count, len(forms)), forms, jnp.int32),
    law=rules.of(tables).begin(tables, count, states),
    count=jnp.int32(1),
    node=jnp.arange(count, dtype=jnp.int32),
  )
  front = Front(
    node=jnp.full((capacity.width,), NONE, jnp.int32).at[0].set(0),
    place=jnp.full((capacity.width,), ROOT, jnp.int32),
    overflow=jnp.bool_(False),
  )
  return nodes, front


def advance(
  tables: Tables,
  capacity: Capacity,
  nodes: TokenTree,
  front: Front,
  byte: Int[Array, ""],
  active: Bool[Array, ""],
) -> tuple[TokenTree, Front]:
  """Reads one byte.

  Args:
    tables: the tokenizer.
    capacity: what `nodes` and `front` were made with.
    nodes: the nodes so far.
    front: the live starts before the byte.
    byte: `int32[]`, the byte.
    active: whether there is one; if not, nothing changes.

  Returns:
    The nodes with those that end at the byte, and the live starts after it,
    the new nodes included. If `overflow` is set, try a larger capacity.
  """
  live = front.node != NONE
  place = jnp.where(live, child(tables, front.place, byte), NONE)
  node, place, lost = _squeeze(place != NONE, capacity.width, front.node, place)
  first = jnp.where(place == NONE, NONE, tables.exact[place])
  token, lane, many = _candidates(tables, capacity, first, place)
  parent = jnp.where(lane == NONE, NONE, node[lane])
  states, law, confused = rules.of(tables).follow(
    tables, capacity.lanes, nodes, parent, token
  )
  keep = active & (states != NONE).any(1)
  forms = common.forms(tables, nodes.forms[parent], token)
  keep &= (forms != NONE).all(1)
  leaves, tree = jax.tree.flatten((token, parent, states, forms, law))
  *leaves, crowded = _squeeze(keep, capacity.born, *leaves)
  token, parent, states, forms, law = jax.tree.unflatten(tree, leaves)
  fresh = token != NONE
  rank = jnp.arange(capacity.born, dtype=jnp.int32)
  at = jnp.where(fresh, nodes.count + rank, len(nodes.token))
  grown = TokenTree(
    token=nodes.token.at[at].set(token, mode="drop"),
    parent=nodes.parent.at[at].set(parent, mode="drop"),
    end=nodes.end.at[at].set(
      nodes.end[parent] + tables.length[token], mode="drop"
    ),
    depth=nodes.depth.at[at].set(nodes.depth[parent] + 1, mode="drop"),
    states=nodes.states.at[at].set(states, mode="drop"),
    forms=nodes.forms.at[at].set(forms, mode="drop"),
    law=jax.tree.map(
      lambda old, new: old.at[at].set(new, mode="drop"), nodes.law, law
    ),
    count=nodes.count + fresh.sum(dtype=jnp.int32),
    node=nodes.node,
  )
  node, place, full = _squeeze(
    jnp.concatenate([node != NONE, fresh]),
    capacity.width,
    jnp.concatenate([node, at]),
    jnp.concatenate([place, jnp.full((capacity.born,), ROOT, jnp.int32)]),
  )
  overflow = lost | many | confused | crowded | full
  overflow |= grown.count > capacity.nodes
  return grown, Front(
    node=jnp.where(active, node, front.node),
    place=jnp.where(active, place, front.place),
    overflow=front.overflow | (active & overflow),
  )


def _candidates(tables, capacity, first, place):
  """Tokens that end at this byte, and the live start each began at.

  Returns:
    `token[W]`, `lane[W]`, and whether there were more than `W`.
  """
  width = capacity.width
  lane = jnp.arange(width, dtype=jnp.int32)
  if tables.most_twins == 1:
    return first, jnp.where(first == NONE, NONE, lane), jnp.bool_(False)
  twin = jnp.arange(tables.most_twins, dtype=jnp.int32)[:, None]
  more = (first != NONE)[None] & (twin < tables.twins[place][None])
  token = jnp.where(more, first[None] + twin, NONE)
  lanes = jnp.where(more, lane[None], NONE)
  return _squeeze(more.ravel(), width, token.ravel(), lanes.ravel())


def _squeeze(keep, size, *values):
  """Moves what is kept to the front; -1 fills the rest.

  Returns:
    The values, `[size, ...]` each, and whether something did not fit.
  """
  rank = jnp.cumsum(keep) - 1
  at = jnp.where(keep, rank, size)
  moved = tuple(
    jnp.full((size, *value.shape[1:]), NONE, value.dtype)
    .at[at]
    .set(value, mode="drop")
    for value in values
  )
  return *moved, keep.sum() > size


def standing(
  tables: Tables,
  nodes: TokenTree,
  path: "FrontierHistory",
  own: Int[Array, " R"],
) -> MaskInputs:
  """Arguments of the token mask of nodes of a text.

  Args:
    tables: the tokenizer.
    nodes, path: the text's, from `read`.
    own: numbers of the `R` nodes.
  """
  at = jnp.maximum(nodes.end[own] - 1, 0)
  return MaskInputs(
    last=nodes.token[own],
    states=nodes.states[own],
    forms=nodes.forms[own],
    law=rules.of(tables).by_node(
      tables, nodes, path.node[at], path.place[at], own
    ),
  )


class FrontierHistory(NamedTuple):
  """The live starts after each byte of a text, `[n, W]` each.

  Attributes:
    node: which node, -1 for none.
    place: trie node of the bytes since the node's end; the root if the node
      ends at this very byte.
  """

  node: Int[Array, "n W"]
  place: Int[Array, "n W"]


def read(
  tables: Tables,
  capacity: Capacity,
  text: UInt8[Array, "B n"],
  length: Int[Array, " B"],
  start: Int[Array, " B"],
) -> tuple[TokenTree, Front, FrontierHistory]:
  """Reads texts, all at once, byte by byte.

  Args:
    tables: the tokenizer.
    capacity: room for the nodes of each.
    text: bytes, padded.
    length: how many there are in each.
    start: the automaton's state where each starts.

  Returns:
    The nodes of the texts, the live starts at their ends, and those after
    each byte; everything with a leading batch axis.
  """
  batch, longest = text.shape
  step = jax.vmap(functools.partial(advance, tables, capacity))

  def body(at, carry):
    nodes, front, path = carry
    byte = text[:, at].astype(jnp.int32)
    nodes, front = step(nodes, front, byte, at < length)
    return (
      nodes,
      front,
      FrontierHistory(
        node=path.node.at[:, at].set(front.node),
        place=path.place.at[:, at].set(front.place),
      ),
    )

  nodes, front = jax.vmap(functools.partial(begin, tables, capacity))(start)
  shape = (batch, longest, capacity.width)
  path = FrontierHistory(*jnp.full((2, *shape), NONE, jnp.int32))
  # The loop ends with the longest text, not with the padding.
  return jax.lax.fori_loop(0, length.max(), body, (nodes, front, path))
