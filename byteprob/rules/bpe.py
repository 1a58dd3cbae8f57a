"""Device: byte-pair encoding's law.

Inside a piece, two tokens may stand side by side unless a merge joins them;
across a cut, any two may. See `byteprob.tokenization.bpe`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob.rules import common
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import BpeTables, Tables

LOCAL = True
"""What may follow a node is decided by its own path alone."""


def begin(tables: Tables, nodes: int, states: int) -> tuple[()]:
  """What the law keeps of each node: nothing but its last token."""
  del tables, nodes, states
  return ()


def follow(
  tables: Tables,
  lanes: int,
  nodes,
  parent: Int[Array, " W"],
  token: Int[Array, " W"],
) -> tuple[Int[Array, "W H"], tuple[()], Bool[Array, ""]]:
  """States after tokens behind nodes; all -1 where one may not stand.

  Args:
    tables: the tokenizer.
    lanes: pairs that are checked at a time.
    nodes: the nodes (`covers.Nodes`).
    parent: the nodes in question, -1 for none.
    token: the tokens, -1 for none.

  Returns:
    The states, what the law keeps of the new nodes, and whether there were
    too many states.
  """
  able = (token != NONE)[:, None]
  before = jnp.where(able, nodes.states[parent], NONE)
  kind = tables.kind[token][:, None]
  plain = common.step(tables, before, kind)
  asked = (plain != NONE).any(1)
  allowed = _check(tables, lanes, nodes.token[parent], token, asked)
  plain = jnp.where(allowed[:, None], plain, NONE)
  after_cut = common.step(tables, common.cut(tables, before), kind)
  states, crowded = common.distinct(
    jnp.concatenate([plain, after_cut], axis=1), nodes.states.shape[1]
  )
  return states, (), crowded


def by_node(
  tables: Tables, nodes, node, place, own: Int[Array, " R"]
) -> tuple[()]:
  """What `mask` needs beside a node's last token and states: nothing."""
  del tables, nodes, node, place, own
  return ()


def mask(
  tables: Tables,
  last: Int[Array, " R"],
  states: Int[Array, "R H"],
  law: tuple[()],
) -> Bool[Array, "R Y"]:
  """Which tokens may follow each node.

  Args:
    tables: the tokenizer.
    last: last token of each node, -1 at the root.
    states: states of each node.
    law: from `by_node`.
  """
  del law
  plain, after_cut = common.ways(tables, states)
  return (plain & ~forbidden(tables.bpe, last)) | after_cut


def forbidden(bpe: BpeTables, last: Int[Array, " R"]) -> Bool[Array, "R Y"]:
  """Tokens that a merge would join to each token, in sorted order."""
  segment = bpe.segment_of[last][:, None] + jnp.arange(bpe.segments)[None]
  some = segment < bpe.segment_of[last + 1][:, None]
  some &= (last != NONE)[:, None]

  def run(row, number, item):
    at = bpe.segment_start[segment[row, number]] + item
    return bpe.start[at], bpe.stop[at]

  length = jnp.where(some, bpe.segment_count[segment], 0)
  return common.spread(length, len(bpe.position), run, bpe.position)


def _check(tables, lanes, left, right, asked):
  """`bool[W]` whether BPE leaves the pairs that are asked for as they are."""
  lanes = min(lanes, len(asked))
  order = jnp.argsort(~asked, stable=True).astype(jnp.int32)
  count = asked.sum()

  def check(carry):
    begin, allowed = carry
    lane = order[jnp.minimum(begin + jnp.arange(lanes), len(asked) - 1)]
    ok = pair_allowed(tables.bpe, left[lane], right[lane])
    return begin + lanes, allowed.at[lane].set(ok)

  start = (jnp.int32(0), jnp.zeros_like(asked))
  return jax.lax.while_loop(lambda c: c[0] < count, check, start)[1]


def pair_allowed(
  bpe: BpeTables, left: Int[Array, " P"], right: Int[Array, " P"]
) -> Bool[Array, " P"]:
  """Whether BPE leaves pairs of tokens as they are; `left` may be -1."""
  segment = bpe.segment_of[left][:, None] + jnp.arange(bpe.segments)[None]
  on_segment = segment < bpe.segment_of[left + 1][:, None]
  spine = bpe.spine_of[right][:, None] + jnp.arange(bpe.spines)[None]
  on_spine = spine < bpe.spine_of[right + 1][:, None]
  on_segment &= (left != NONE)[:, None]
  symbol = jnp.where(on_segment, bpe.segment_token[segment], NONE)
  part = jnp.where(on_spine, bpe.spine[spine], NONE)
  run = _find_pair(bpe, symbol[:, :, None], part[:, None, :])
  first = bpe.segment_start[segment][:, :, None]
  inside = (run >= first) & (
    run < first + bpe.segment_count[segment][:, :, None]
  )
  place = bpe.position[right][:, None, None]
  inside &= (bpe.start[run] <= place) & (place < bpe.stop[run])
  return ~(inside & (run != NONE)).any((1, 2))


def _find_pair(bpe, left, right):
  """The run of the merge of each pair of symbols, -1 if they never merge."""
  some = (left != NONE) & (right != NONE)
  low = jnp.where(some, bpe.pair_of[left], 0)
  stop = jnp.where(some, bpe.pair_of[left + 1], 0)
  low, stop = jnp.broadcast_arrays(low, stop)
  high = stop
  for _ in range(bpe.pairs.bit_length()):
    middle = (low + high) >> 1
    before = (low < high) & (bpe.pair_right[middle] < right)
    low, high = (
      jnp.where(before, middle + 1, low),
      jnp.where(before, high, jnp.minimum(middle, high)),
    )
  found = (low < stop) & (bpe.pair_right[low] == right)
  return jnp.where(found, bpe.pair_run[low], NONE)
