"""Device: from a model's rows of logits to probabilities of bytes.

The byte-level model is the token-level model with the tokens that may not
follow a node masked out and the rest renormalized, node by node. All that a
text needs of a row are sums over intervals of the sorted vocabulary: the
tokens that start with the next bytes of the text. Sums are of positive terms
only, each with its own largest term taken out, so that nothing possible is
rounded to probability 0.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303); the mask of a
row in one pass over its forbidden runs is ours.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import rules
from byteprob.numerics import logaddexp, logsumexp
from byteprob.rules.common import NONE, in_form, owner_of
from byteprob.token_tree import MaskInputs, child
from byteprob.tokenization.tables import Tables

_SHIFT = 6
"""Log of `BLOCK`: a shift is one operation, a floored division eight."""

BLOCK = 1 << _SHIFT
"""Tokens, and blocks of tokens, that are summed up once for all intervals.

An interval of a vocabulary of 262,144 is then the sum of at most 64 of the
largest sums, and 64 on either side of the others.
"""

_FEW = 8
"""Rows that are treated at a time on a CPU."""

_LANES, _MANY = 256, 2048
"""Children that are treated at a time, of a few texts and of many places."""

_BLOCK_ROWS = 128
"""Rows that are treated at a time where all bytes are looked at."""


Masked = Callable[[Tables, MaskInputs], tuple[jax.Array, jax.Array]]
"""Of nodes: tokens `bool[R, Y]` that are kept, and whether the end is."""


class TokenLogProbs(NamedTuple):
  """Log-probs of the next token after each of `R` nodes, and their sums.

  Attributes:
    token: `float32[R, Y']` log-probs of the tokens in sorted order, padded to
      whole blocks; -inf where a token may not stand.
    block: `float32[R, K]` log of the sum of each `BLOCK` tokens, padded in the
      same way.
    group: `float32[R, K / BLOCK]` log of the sum of each `BLOCK` blocks.
    eos: `float32[R]` log-prob that the text ends here.
    total: `float32[R]` log of the probability that the model, unmasked, gives
      to all that is allowed: the mask takes away `1 - exp(total)`.
  """

  token: Float[Array, "R Y"]
  block: Float[Array, "R K"]
  group: Float[Array, "R G"]
  eos: Float[Array, " R"]
  total: Float[Array, " R"]


def rows(
  tables: Tables,
  logits: Float[Array, "R V"],
  standing: MaskInputs,
  *,
  trust_model: bool = False,
  masked: Masked | None = None,
) -> TokenLogProbs:
  """Log-probs of the tokens that may follow each node, renormalized.

  Args:
    tables: the tokenizer.
    logits: `float32`, the model's rows at the nodes.
    standing: what decides on what may follow each node.
    trust_model: skip the mask and the renormalization: tokens that may not
      stand keep their probability (the paper's fast mode).
    masked: what is kept instead of what `mask` says, with the model's own
      probabilities: they are not renormalized either.
  """
  whole = functools.partial(
    _rows, tables, trust_model=trust_model, masked=masked
  )
  inputs = logits.astype(jnp.float32), standing
  count = len(logits)
  if count <= _FEW or count % _FEW:
    return whole(*inputs)

  def in_parts(*inputs):
    parts = jax.tree.map(
      lambda leaf: leaf.reshape(count // _FEW, _FEW, *leaf.shape[1:]), inputs
    )
    found = jax.lax.map(lambda part: whole(*part), parts)
    return jax.tree.map(
      lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found
    )

  # A CPU is faster on what its caches hold, an accelerator on all at once.
  return jax.lax.platform_dependent(*inputs, cpu=in_parts, default=whole)


def _rows(tables, logits, standing, *, trust_model, masked):
  """`rows`, all at once."""
  everything = logsumexp(logits, 1)
  if trust_model:
    allowed = jnp.ones((1, len(tables.token_id)), bool)
    may_end = jnp.ones(len(logits), bool)
  else:
    allowed, may_end = (masked or mask)(tables, standing)
  # Padding after the gather would keep XLA from reading it once.
  rest = -allowed.shape[1] % BLOCK
  allowed = jnp.pad(allowed, ((0, 0), (0, rest)))
  token_id = jnp.pad(tables.token_id, (0, rest))
  token = jnp.where(allowed, logits[:, token_id], -jnp.inf)
  block, group = _sums(token)
  eos = logsumexp(logits[:, tables.end_ids], 1)
  eos = jnp.where(may_end, eos, -jnp.inf)
  total = logaddexp(logsumexp(group, 1), eos)
  norm = everything if trust_model or masked else total
  return TokenLogProbs(
    token=token - norm[:, None],
    block=block - norm[:, None],
    group=group - norm[:, None],
    eos=eos - norm,
    total=total - everything,
  )


def _sums(token):
  """`TokenLogProbs.block` and `TokenLogProbs.group`."""
  block = logsumexp(token.reshape(len(token), -1, BLOCK), 2)
  rest = -block.shape[1] % BLOCK
  block = jnp.pad(block, ((0, 0), (0, rest)), constant_values=-jnp.inf)
  return block, logsumexp(block.reshape(len(token), -1, BLOCK), 2)


def no_rows(tables: Tables, *shape: int) -> TokenLogProbs:
  """Rows that give nothing to anything, in an array of that shape."""
  blocks = -(-len(tables.token_id) // BLOCK)
  groups = -(-blocks // BLOCK)
  sizes = (blocks * BLOCK,), (groups * BLOCK,), (groups,), (), ()
  return TokenLogProbs(*(jnp.full((*shape, *size), -jnp.inf) for size in sizes))


def mask(
  tables: Tables, standing: MaskInputs
) -> tuple[Bool[Array, "R Y"], Bool[Array, " R"]]:
  """Which tokens may follow each node, and whether the text may end there."""
  last, states, forms, law = standing
  allowed = rules.of(tables).mask(tables, last, states, law)
  if tables.forms:
    allowed &= in_form(tables, forms)
  return allowed, ((states != NONE) & tables.ends[states]).any(1)


def interval_logsumexp(
  rows: TokenLogProbs,
  row: Int[Array, " P"],
  low: Int[Array, " P"],
  high: Int[Array, " P"],
) -> Float[Array, " P"]:
  """Log of the probability that a row gives to tokens `[low, high)`."""
  terms = []
  for values in (rows.token, rows.block):
    edges, low, high = _edges(values, row, low, high)
    terms += edges
  at = jnp.arange(rows.group.shape[1])[None]
  whole = (at >= low[:, None]) & (at < high[:, None])
  terms.append(jnp.where(whole, rows.group[row], -jnp.inf))
  return logsumexp(jnp.concatenate(terms, axis=1), 1)


def _edges(values, row, low, high):
  """Splits intervals into edges, left and right, and whole blocks."""
  blocks = values.reshape(len(values), -1, BLOCK)
  first, stop = (low + BLOCK - 1) >> _SHIFT, high >> _SHIFT
  offset = jnp.arange(BLOCK)[None]

  def part(block, inside):
    found = blocks[row, jnp.clip(block, 0, blocks.shape[1] - 1)]
    return jnp.where(inside(block[:, None] * BLOCK + offset), found, -jnp.inf)

  # An interval inside one block is all on the left.
  left = part(first - 1, lambda at: (at >= low[:, None]) & (at < high[:, None]))
  right = part(stop, lambda at: (at < high[:, None]) & (first <= stop)[:, None])
  return [left, right], first, jnp.maximum(first, stop)


class Continuations(NamedTuple):
  """Log-probs that `R` rows give to the text that follows their nodes.

  Attributes:
    starts: `[r, d]` log-prob that the next token starts with the next `d + 1`
      bytes of the text.
    exact: `[r, d, t]` that it is the `t`-th of the tokens that spell exactly
      these.
    beyond: `[r, d]` that it starts with them and is longer; None without
      the flag `beyond`.
  """

  starts: Float[Array, "R D"]
  exact: Float[Array, "R D T"]
  beyond: Float[Array, "R D"] | None


def follow_text(
  tables: Tables,
  rows: TokenLogProbs,
  end: Int[Array, " R"],
  text: UInt8[Array, "B n"],
  length: Int[Array, " B"],
  owner: Int[Array, " R"],
  *,
  beyond: bool = False,
) -> Continuations:
  """Follows the text down the trie behind each node.

  Args:
    tables: the tokenizer.
    rows: the rows.
    end: where each node ends; `length` or more for none.
    text: bytes of each text, padded.
    length: how many there are.
    owner: which text each row belongs to.
    beyond: whether `Continuations.beyond` is wanted.

  Returns:
    See `Continuations`; `D` is the longest token; -inf past the text's end.
  """
  count, deep = len(end), tables.longest
  row = jnp.arange(count)

  def go_on(carry):
    depth, place, _ = carry
    return (depth < deep) & (place != NONE).any()

  def read(carry):
    depth, place, found = carry
    at = end + depth
    byte = text[owner, at].astype(jnp.int32)
    place = jnp.where(at < length[owner], child(tables, place, byte), NONE)
    live = place != NONE
    low, high = tables.low[place], tables.high[place]
    whole = interval_logsumexp(rows, row, low, jnp.where(live, high, low))
    twin = jnp.arange(tables.most_twins)[None]
    there = live[:, None] & (twin < tables.twins[place][:, None])
    token = jnp.where(there, tables.exact[place][:, None] + twin, 0)
    values = jnp.take_along_axis(rows.token, token, axis=1)
    found = Continuations(
      starts=found.starts.at[:, depth].set(whole),
      exact=found.exact.at[:, depth].set(jnp.where(there, values, -jnp.inf)),
      beyond=found.beyond,
    )
    if beyond:
      low = low + tables.equal[place]
      longer = interval_logsumexp(rows, row, low, jnp.where(live, high, 0))
      found = found._replace(beyond=found.beyond.at[:, depth].set(longer))
    return depth + 1, place, found

  nothing = Continuations(
    starts=jnp.full((count, deep), -jnp.inf),
    exact=jnp.full((count, deep, tables.most_twins), -jnp.inf),
    beyond=jnp.full((count, deep), -jnp.inf) if beyond else None,
  )
  root = jnp.where(end < length[owner], 0, NONE).astype(jnp.int32)
  return jax.lax.while_loop(go_on, read, (jnp.int32(0), root, nothing))[2]


def next_bytes(
  tables: Tables,
  rows: TokenLogProbs,
  row: Int[Array, " W"],
  place: Int[Array, " W"],
  *,
  fixed: bool = False,
) -> Float[Array, "W 257"]:
  """Log-probs of the next byte, after the bytes at a trie node.

  Args:
    tables: the tokenizer.
    rows: the rows.
    row: which row; -1 for none.
    place: trie node of the bytes since the row's node, 0 right after it.
    fixed: look at as many children of each node as there are bytes, so that
      reverse-mode differentiation passes; slower.

  Returns:
    `[w, b]` log-prob that the next token starts with those bytes and then
    `b`; index 256 that the text ends, if nothing has been read since the
    node. -inf all through where `row` is -1.
  """
  if fixed:
    return _every_byte(tables, rows, row, place)
  lanes = _LANES if len(row) <= 1024 else _MANY
  length = jnp.where(row == NONE, 0, tables.children[place])
  stop = jnp.cumsum(length)

  def add(carry):
    first, found = carry
    item = first + jnp.arange(lanes, dtype=jnp.int32)
    at = owner_of(stop, item)
    node = tables.first_child[place[at]] + item - (stop[at] - length[at])
    some = item < stop[-1]
    low, high = tables.low[node], tables.high[node]
    value = interval_logsumexp(rows, row[at], low, jnp.where(some, high, low))
    at = jnp.where(some, at, len(row))
    byte = tables.node_byte[node]
    return first + lanes, found.at[at, byte].set(value, mode="drop")

  found = jnp.full((len(row), 257), -jnp.inf)
  start = (jnp.int32(0), found)
  found = jax.lax.while_loop(lambda c: c[0] < stop[-1], add, start)[1]
  at_node = (row != NONE) & (place == 0)
  return found.at[:, 256].set(jnp.where(at_node, rows.eos[row], -jnp.inf))


def _every_byte(tables, rows, row, place):
  """`next_bytes` in a fixed number of steps."""
  count = len(row)
  size = min(count, _BLOCK_ROWS)
  rest = -count % size
  row = jnp.pad(row, (0, rest), constant_values=NONE)
  place = jnp.pad(place, (0, rest), constant_values=NONE)
  item = jnp.arange(256, dtype=jnp.int32)[None]
  each = jnp.arange(size)[:, None]

  def some(part):
    own, at = part
    known = own != NONE
    number = jnp.where(known, tables.children[at], 0)[:, None]
    there = item < number
    node = jnp.where(there, tables.first_child[at][:, None] + item, 0)
    low = tables.low[node]
    high = jnp.where(there, tables.high[node], low)
    whose = jnp.broadcast_to(own[:, None], node.shape)
    value = interval_logsumexp(rows, whose.ravel(), low.ravel(), high.ravel())
    byte = jnp.where(there, tables.node_byte[node], 257)
    found = jnp.full((size, 257), -jnp.inf)
    found = found.at[each, byte].set(value.reshape(size, 256), mode="drop")
    eos = jnp.where(known & (at == 0), rows.eos[own], -jnp.inf)
    return found.at[:, 256].set(eos)

  parts = row.reshape(-1, size), place.reshape(-1, size)
  return jax.lax.map(some, parts).reshape(-1, 257)[:count]
