"""Device: what the tokenizer's law knows of one path, token by token.

Of each text only one node is followed: that of its tokens so far. Where a
rule is `LOCAL`, that node and a token decide what may come next. Else the
text's other nodes do too, and they are all read on, byte by byte.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from byteprob import rules, token_tree
from byteprob.rules import common
from byteprob.token_tree import NONE, ROOT
from byteprob.tokenization.tables import Tables


class Spelling(NamedTuple):
  """The bytes of tokens, `V` model ids and `Y` tokens in sorted order.

  Attributes:
    place: `int32[V]` an id's place in the order, -1 if it spells nothing.
    begin: `int32[Y]` where a token's bytes begin.
    text: `uint8[...]` the bytes; as many as the longest token has follow them.
  """

  place: Int[Array, " V"]
  begin: Int[Array, " Y"]
  text: UInt8[Array, " T"]


class Stands(NamedTuple):
  """For `LOCAL` rules: nodes of texts; see `token_tree.TokenTree`."""

  token: Int[Array, " B"]
  states: Int[Array, "B H"]
  forms: Int[Array, "B F"]
  law: Any


class Read(NamedTuple):
  """For other rules: all nodes of the texts.

  Attributes:
    nodes, front, path: see `token_tree.read`.
    node: `int32[B]` the node that each text stands at.
    length: `int32[B]` bytes read.
  """

  nodes: token_tree.TokenTree
  front: token_tree.Front
  path: token_tree.FrontierHistory
  node: Int[Array, " B"]
  length: Int[Array, " B"]


Trail = Stands | Read


def standing(tables: Tables, trail: Trail) -> token_tree.MaskInputs:
  """Arguments of the token mask of each text's node, `[B, ...]`."""
  if isinstance(trail, Stands):
    every = jnp.arange(len(trail.token), dtype=jnp.int32)
    law = rules.of(tables).by_node(tables, trail, None, None, every)
    return token_tree.MaskInputs(trail.token, trail.states, trail.forms, law)

  def one(nodes, path, node):
    return token_tree.standing(tables, nodes, path, node[None])

  found = jax.vmap(one)(trail.nodes, trail.path, trail.node)
  return jax.tree.map(lambda leaf: leaf[:, 0], found)


def follow(
  tables: Tables,
  capacity: token_tree.Capacity,
  spelling: Spelling,
  trail: Trail,
  token: Int[Array, " B"],
  known: Int[Array, " B"],
) -> tuple[Trail, Bool[Array, ""]]:
  """Goes on from each text's node by a token.

  Args:
    tables: the tokenizer.
    capacity: room for nodes; for rules that are not `LOCAL`.
    spelling: bytes of the tokens.
    trail: where the texts stand.
    token: the tokens, in sorted order; -1 leaves a text where it stands.
    known: how many of a token's bytes have been read before it was drawn.

  Returns:
    Where they stand then, and whether something has not fitted: they all
    stand where they stood then, and what has been read is void.
  """
  some = token != NONE
  if isinstance(trail, Stands):
    each = jnp.arange(len(token), dtype=jnp.int32)
    states, law, crowded = rules.of(tables).follow(
      tables, len(token), trail, each, token
    )
    after = Stands(
      token=token,
      states=states,
      forms=common.forms(tables, trail.forms, token),
      law=law,
    )

    def choose(new, old):
      return jnp.where(some.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    some &= ~crowded
    return jax.tree.map(choose, after, trail), crowded

  advance = jax.vmap(functools.partial(token_tree.advance, tables, capacity))
  stop = jnp.where(some, tables.length[token], 0)

  def read(at, carry):
    nodes, front, path = carry
    byte = spelling.text[spelling.begin[token] + at].astype(jnp.int32)
    active = (known <= at) & (at < stop)
    nodes, front = advance(nodes, front, byte, active)
    path = _write_path(path, trail.length + at - known, front, active)
    return nodes, front, path

  nodes, front, path = jax.lax.fori_loop(
    0, stop.max(), read, (trail.nodes, trail.front, trail.path)
  )

  def find(nodes, front, node, token):
    """The new node is in the front: it has just begun."""
    own = (front.place == ROOT) & (nodes.token[front.node] == token)
    own &= nodes.parent[front.node] == node
    return jnp.where(own.any(), front.node[own.argmax()], NONE)

  crowded = front.overflow.any()
  after = Read(
    nodes=nodes,
    front=front,
    path=path,
    node=jnp.where(
      some & ~crowded,
      jax.vmap(find)(nodes, front, trail.node, token),
      trail.node,
    ),
    length=trail.length + jnp.maximum(stop - known, 0),
  )
  return after, crowded


def _write_path(path, at, front, active):
  """Notes the front after a byte; see `token_tree.Path`."""
  each = jnp.arange(len(at))
  at = jnp.where(active, at, path.node.shape[1])
  return token_tree.FrontierHistory(
    node=path.node.at[each, at].set(front.node, mode="drop"),
    place=path.place.at[each, at].set(front.place, mode="drop"),
  )
