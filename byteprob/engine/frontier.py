"""Device: the frontier of a text, which grows by bytes; no model is needed.

A *node* is a token sequence that spells a prefix of the text and that the
tokenizer can begin with. A *frontier entry* is a node that some token still
carries past the bytes read so far. Nodes that no longer are entries do not
matter to what follows, so a text needs a fixed number of entries, however long
it gets. An entry stays at its index until it is given up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob import rules
from byteprob.engine.config import EngineConfig
from byteprob.rules import common
from byteprob.rules.common import NONE, child, running_sum
from byteprob.token_tree import MaskInputs
from byteprob.tokenization.tables import Tables

ROOT = 0
"""The trie's root: no byte has been read since the node's end."""


class Frontier(NamedTuple):
  """The frontier entries of one text, `[W, ...]` each.

  Attributes:
    node: `int32[W]` number of the node in the order of their births, 0 for the
      root; -1 where there is no entry.
    trie_node: `int32[W]` of the bytes since the node's end; -1 where no token
      goes on, and the entry is only kept for its children (`parent`).
    parent: `int32[W]` index of the parent, as long as its row is awaited; -1
      from then on.
    token: `int32[W]` last token (in sorted order), -1 at the root.
    end: `int32[W]` bytes that the node spells.
    depth: `int32[W]` tokens since the root.
    states: `int32[W, H]` states of the pre-tokenizer's automaton.
    forms: `int32[W, F]` states of the normalization form's laws.
    law: what the rule keeps of each node, `[W, ...]`.
    rule_state: what the rule's mask needs beside, `[W, ...]`.
  """

  node: Int[Array, " W"]
  trie_node: Int[Array, " W"]
  parent: Int[Array, " W"]
  token: Int[Array, " W"]
  end: Int[Array, " W"]
  depth: Int[Array, " W"]
  states: Int[Array, "W H"]
  forms: Int[Array, "W F"]
  law: Any
  rule_state: Any


class Births(NamedTuple):
  """The nodes that a byte has brought, by the entries that they took, `[W]`.

  Attributes:
    new: `bool[W]` whether the entry is such a node.
    parent: `int32[W]` index of its parent, anything elsewhere.
    read: `bool[]` whether the byte was read.
  """

  new: Bool[Array, " W"]
  parent: Int[Array, " W"]
  read: Bool[Array, ""]


def init_frontier(
  tables: Tables, config: EngineConfig, start: Int[Array, ""]
) -> Frontier:
  """The root alone.

  Args:
    tables: the tokenizer.
    config: the sizes.
    start: the automaton's state where the text starts.
  """
  count, states = config.max_frontier, config.max_states
  rule = rules.of(tables)
  forms = jnp.array([form.start for form in tables.forms], jnp.int32)
  none = jnp.full((count,), NONE, jnp.int32)
  zero = jnp.zeros((count,), jnp.int32)
  frontier = Frontier(
    node=none.at[0].set(0),
    trie_node=none.at[0].set(ROOT),
    parent=none,
    token=none,
    end=zero,
    depth=zero,
    states=jnp.full((count, states), NONE, jnp.int32).at[0, 0].set(start),
    forms=jnp.full((count, len(forms)), forms, jnp.int32),
    law=rule.begin(tables, count, states),
    rule_state=None,
  )
  return frontier._replace(rule_state=_rule_state(tables, frontier))


def mask_inputs(frontier: Frontier) -> MaskInputs:
  """Arguments of the token mask of each entry."""
  return MaskInputs(
    last=frontier.token,
    states=frontier.states,
    forms=frontier.forms,
    law=frontier.rule_state,
  )


def live(frontier: Frontier) -> Bool[Array, " W"]:
  """Entries that some token carries past the bytes read so far."""
  return frontier.trie_node != NONE


def advance(
  tables: Tables,
  config: EngineConfig,
  frontier: Frontier,
  num_nodes: Int[Array, ""],
  byte: Int[Array, ""],
  held: Bool[Array, " W"],
  room: Int[Array, ""],
) -> tuple[Frontier, Births, Bool[Array, ""]]:
  """Reads one byte, if there is room.

  Args:
    tables: the tokenizer.
    config: the sizes.
    frontier: the entries before the byte.
    num_nodes: nodes born so far.
    byte: the byte.
    held: entries that keep their index for their children's sake.
    room: nodes that may be born; with more the byte is not read, nor at -1.

  Returns:
    The entries after it, which of them have just been born, and whether they
    did not fit. The frontier is as before where nothing is read.
  """
  count = config.max_frontier
  each = jnp.arange(count, dtype=jnp.int32)
  there = live(frontier)
  before = frontier.trie_node
  trie_node = jnp.where(there, child(tables, before, byte), NONE)
  first = jnp.where(trie_node == NONE, NONE, tables.exact[trie_node])
  token, parent, many = _candidates(tables, first, trie_node)
  states, law, confused = rules.of(tables).follow(
    tables, config.pair_chunk, frontier, parent, token
  )
  forms = common.forms(tables, frontier.forms[parent], token)
  fits = (states != NONE).any(1) & (forms != NONE).all(1)

  # The k-th token that fits takes the k-th entry that is free.
  free = (trie_node == NONE) & ~held
  rank = running_sum(fits.astype(jnp.int32)) - 1
  place = running_sum(free.astype(jnp.int32)) - 1
  born = fits.sum()
  overflow = (many | confused | (born > free.sum())) & (room >= 0)
  going = ~overflow & (born <= room)
  new = free & (place < born) & going
  match = fits[None] & (rank[None] == place[:, None])
  source = jnp.where(match, each[None], 0).sum(1)
  parent = parent[source]

  def put(fresh, old):
    chosen = new.reshape(-1, *[1] * (old.ndim - 1))
    return jnp.where(chosen, fresh[source], old)

  token = put(token, frontier.token)
  gone = free & ~new & going
  node = jnp.where(new, num_nodes + place, frontier.node)
  grown = Frontier(
    node=jnp.where(gone, NONE, node).astype(jnp.int32),
    trie_node=jnp.where(new, ROOT, jnp.where(going, trie_node, before)),
    parent=jnp.where(new, parent, frontier.parent),
    token=token,
    end=jnp.where(
      new, frontier.end[parent] + tables.length[token], frontier.end
    ),
    depth=jnp.where(new, frontier.depth[parent] + 1, frontier.depth),
    states=put(states, frontier.states),
    forms=put(forms, frontier.forms),
    law=jax.tree.map(put, law, frontier.law),
    rule_state=None,
  )

  def keep(fresh, old):
    chosen = new.reshape(-1, *[1] * (old.ndim - 1))
    return jnp.where(chosen, fresh, old)

  grown = grown._replace(
    rule_state=jax.tree.map(
      keep, _rule_state(tables, grown), frontier.rule_state
    )
  )
  return grown, Births(new, parent, going), overflow


def _candidates(tables, first, trie_node):
  """Tokens that end at this byte, and the entry each began at.

  Returns:
    `token[W]`, `parent[W]`, and whether there were more than `W`.
  """
  count = len(first)
  each = jnp.arange(count, dtype=jnp.int32)
  if tables.most_twins == 1:
    return first, jnp.where(first == NONE, NONE, each), jnp.bool_(False)
  twin = jnp.arange(tables.most_twins, dtype=jnp.int32)[:, None]
  more = (first != NONE)[None] & (twin < tables.twins[trie_node][None])
  rank = jnp.where(more.ravel(), jnp.cumsum(more.ravel()) - 1, count)
  none = jnp.full((count,), NONE, jnp.int32)

  def squeeze(values):
    return none.at[rank].set(values.ravel(), mode="drop")

  token = squeeze(first[None] + twin)
  parent = squeeze(jnp.broadcast_to(each[None], more.shape))
  return token, parent, more.sum() > count


def _rule_state(tables, frontier):
  """The rule's own argument of its mask, for nodes that were just born."""
  count = len(frontier.node)
  each = jnp.arange(count, dtype=jnp.int32)
  shape = (count, count)
  entry = jnp.where(live(frontier), each, NONE)
  return rules.of(tables).by_node(
    tables,
    frontier,
    jnp.broadcast_to(entry[None], shape),
    jnp.broadcast_to(frontier.trie_node[None], shape),
    each,
  )
