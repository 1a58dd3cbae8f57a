"""Device: byte-pair encoding's law.

Inside a piece, two tokens may stand side by side unless a merge joins them;
across a cut, any two may. See `byteprob.tokenization.bpe`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from byteprob.rules import common
from byteprob.rules.common import NONE
from byteprob.tokenization import cuckoo
from byteprob.tokenization.tables import BpeTables, Tables

LOCAL = True
"""The tokens that may follow a node depend on its own path alone."""

_LOOKUPS = 4096
"""As many are done at once, whether they are asked for or not."""


def begin(tables: Tables, nodes: int, states: int) -> tuple[()]:
  """Initial `law` of each node: empty, since its last token is enough."""
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
    nodes: the nodes (`token_tree.TokenTree`).
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
  """The rule's own argument of `mask`: empty."""
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
  segment, some = _listed(bpe.segment_of, last, bpe.segments)
  some &= (last != NONE)[:, None]
  segment = bpe.segment[segment]
  first = segment[..., 0]

  def run(row, number, item):
    at = first[row, number] + item
    return bpe.start[at], bpe.stop[at]

  length = jnp.where(some, segment[..., 1] - first, 0)
  return common.spread(length, len(bpe.position), run, bpe.position)


def _check(tables, lanes, left, right, asked):
  """`bool[W]` whether BPE leaves the pairs that are asked for as they are."""
  bpe = tables.bpe
  if len(asked) * bpe.segments * bpe.spines <= _LOOKUPS:
    return pair_allowed(bpe, left, right)
  lanes = min(lanes, len(asked))
  order = jnp.argsort(~asked, stable=True).astype(jnp.int32)
  count = asked.sum()

  def check(carry):
    begin, allowed = carry
    lane = order[jnp.minimum(begin + jnp.arange(lanes), len(asked) - 1)]
    ok = pair_allowed(bpe, left[lane], right[lane])
    return begin + lanes, allowed.at[lane].set(ok)

  start = (jnp.int32(0), jnp.zeros_like(asked))
  return jax.lax.while_loop(lambda c: c[0] < count, check, start)[1]


def pair_allowed(
  bpe: BpeTables, left: Int[Array, " P"], right: Int[Array, " P"]
) -> Bool[Array, " P"]:
  """Whether BPE leaves pairs of tokens as they are; `left` may be -1."""
  segment, there = _listed(bpe.segment_of, left, bpe.segments)
  there &= (left != NONE)[:, None]
  segment = bpe.segment[segment][:, :, None]
  first, symbol = segment[..., 0], segment[..., 2]
  stop = jnp.where(there[:, :, None], segment[..., 1], NONE)
  spine, there = _listed(bpe.spine_of, right, bpe.spines)
  part = jnp.where(there, bpe.spine[spine], NONE)[:, None, :]
  place = bpe.position[right][:, None, None]
  merged = jnp.bool_(False)
  for run, other, start in _merges(bpe, symbol, part):
    # A run of another left part is not in the segment; one of this right part
    # stops behind all tokens that have it on their spine.
    inside = (first <= run) & (run < stop)
    merged |= inside & (other == part) & (start <= place)
  return ~merged.any((1, 2))


def _merges(bpe, left, right):
  """Candidate merges of pairs of symbols: run, right part, start of each."""
  slot = cuckoo.slots(left, right, len(bpe.pair))
  rows = [
    bpe.pair.at[slot[..., way]].get(mode="promise_in_bounds")
    for way in range(cuckoo.WAYS)
  ]
  return [tuple(row[..., part] for part in range(3)) for row in rows]


def _listed(offsets, token, most):
  """Indices of each token's items, `[P, most]`, and whether each exists."""
  bounds = offsets[token[:, None] + jnp.arange(2)[None]]
  item = bounds[:, :1] + jnp.arange(most)[None]
  return item, item < bounds[:, 1:]
