"""Device: the law of longest matches from the left.

A token forbids, inside its piece, that the text goes on so that a longer one
matches where it started; see `byteprob.tokenization.longest_match`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob.rules import common
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import LongestMatchTables, Tables

LOCAL = True
"""The tokens that may follow a node depend on its own path alone."""


def begin(tables: Tables, nodes: int, states: int) -> Int[Array, "N H"]:
  """Initial `law` of each node: no pending match (-1) in any state."""
  del tables
  return jnp.full((nodes, states), NONE, jnp.int32)


def follow(
  tables: Tables,
  lanes: int,
  nodes,
  parent: Int[Array, " W"],
  token: Int[Array, " W"],
) -> tuple[Int[Array, "W H"], Int[Array, "W H"], Bool[Array, ""]]:
  """States after tokens behind nodes; all -1 where one may not stand.

  Args:
    tables: the tokenizer.
    lanes: not used.
    nodes: the nodes (`token_tree.TokenTree`).
    parent: the nodes in question, -1 for none.
    token: the tokens, -1 for none.

  Returns:
    The states, their pending matches, and whether there were too many states.
  """
  del lanes
  able = (token != NONE)[:, None]
  before = jnp.where(able, nodes.states[parent], NONE)
  pending = jnp.where(before == NONE, NONE, nodes.law[parent])
  kind = tables.kind[token][:, None]
  plain = common.step(tables, before, kind)
  barred = _completes(tables.longest_match, pending, token)
  plain = jnp.where(barred, NONE, plain)
  after_cut = common.step(tables, common.cut(tables, before), kind)
  alone = _alone(tables.longest_match, token)[:, None]
  oldest = _oldest(tables, pending, token)
  return common.distinct(
    jnp.concatenate([plain, after_cut], axis=1),
    before.shape[1],
    jnp.concatenate(
      [
        jnp.where(oldest == NONE, alone, oldest),
        jnp.broadcast_to(alone, before.shape),
      ],
      axis=1,
    ),
  )


def by_node(
  tables: Tables, nodes, node, place, own: Int[Array, " R"]
) -> Int[Array, "R H"]:
  """The rule's own argument of `mask`: the nodes' pending matches."""
  del tables, node, place
  return nodes.law[own]


def mask(
  tables: Tables,
  last: Int[Array, " R"],
  states: Int[Array, "R H"],
  law: Int[Array, "R H"],
) -> Bool[Array, "R Y"]:
  """Which tokens may follow each node.

  Args:
    tables: the tokenizer.
    last: last token of each node, -1 at the root.
    states: states of each node.
    law: from `by_node`.
  """
  del last
  longest_match = tables.longest_match
  size = len(tables.token_id)
  _, after_cut = common.ways(tables, states)

  def add(at, allowed):
    state = jax.lax.dynamic_slice_in_dim(states, at, 1, axis=1)
    code = jax.lax.dynamic_index_in_dim(law, at, axis=1, keepdims=False)
    plain, _ = common.ways(tables, state)
    first = longest_match.run_of[code]
    count = jnp.where(code == NONE, 0, longest_match.run_of[code + 1] - first)

    def run(row, number, item):
      del number
      return longest_match.low[first[row] + item], longest_match.high[
        first[row] + item
      ]

    barred = common.spread(count[:, None], size, run, jnp.arange(size))
    return allowed | (plain & ~barred)

  # States stand in front: nobody has more than the row with most.
  most = (states != NONE).sum(1).max()
  return jax.lax.fori_loop(0, most, add, after_cut)


def _completes(
  longest_match: LongestMatchTables,
  pending: Int[Array, "W H"],
  token: Int[Array, " W"],
) -> Bool[Array, "W H"]:
  """Whether a token completes a pending match, or a later one."""
  token = token[:, None]
  stop = jnp.where(pending == NONE, 0, longest_match.run_of[pending + 1])
  low = jnp.where(pending == NONE, 0, longest_match.run_of[pending])
  first, high = low, stop
  for _ in range(longest_match.runs.bit_length()):
    middle = (low + high) // 2
    before = (low < high) & (longest_match.low[middle] <= token)
    low, high = (
      jnp.where(before, middle + 1, low),
      jnp.where(before, high, jnp.minimum(middle, high)),
    )
  # The last run that starts at the token or before it.
  return (low > first) & (token < longest_match.high[low - 1])


def _alone(
  longest_match: LongestMatchTables, token: Int[Array, " W"]
) -> Int[Array, " W"]:
  """The match that a token itself leaves pending, -1 if none."""
  code = 2 * longest_match.node[token] + longest_match.inside[token]
  return jnp.where((token != NONE) & longest_match.open[code], code, NONE)


def _oldest(tables, pending, token):
  """The oldest match that is still pending after a token, -1 if none is."""
  longest_match = tables.longest_match

  def go_on(carry):
    code, found = carry
    return ((code != NONE) & (found == NONE)).any()

  def try_next(carry):
    code, found = carry
    node = _walk(tables, jnp.where(code == NONE, NONE, code // 2), token)
    after = 2 * node + code % 2
    still = (node != NONE) & longest_match.open[after] & (found == NONE)
    found = jnp.where(still, after, found)
    return jnp.where(code == NONE, NONE, longest_match.link[code]), found

  nothing = jnp.full_like(pending, NONE)
  return jax.lax.while_loop(go_on, try_next, (pending, nothing))[1]


def _walk(tables, node, token):
  """Trie nodes after all bytes of tokens, -1 where there is none."""
  longest_match = tables.longest_match
  length = jnp.where(token == NONE, 0, tables.length[token])

  def go_on(carry):
    at, node = carry
    return ((at < length[:, None]) & (node != NONE)).any()

  def read(carry):
    at, node = carry
    byte = longest_match.spelled[longest_match.begin[token] + at].astype(
      jnp.int32
    )
    after = common.child(tables, node, byte[:, None])
    return at + 1, jnp.where((at < length)[:, None], after, node)

  return jax.lax.while_loop(go_on, read, (jnp.int32(0), node))[1]
