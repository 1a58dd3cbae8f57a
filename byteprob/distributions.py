"""Host: the next byte after every prefix of a text; the device does the work.

`scoring` keeps of a text's rows what the text's own bytes need. Here the same
rows are asked for every byte that might come, after every prefix (`exact`, in
one pass), and for what token prompting would say there (`read`, in two).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from byteprob import lemma, scoring
from byteprob.plan import PrefillChunk, ScoringQuery, fronts, take
from byteprob.rules.common import NONE
from byteprob.token_tree import ROOT
from byteprob.tokenization.tables import Tables
from byteprob.types import Model


class Distributions(NamedTuple):
  """Distributions after each of the `n + 1` prefixes of a text of `n` bytes.

  Attributes:
    exact: `float32[n + 1, 257]` log-probs of the next byte; 256 is the end.
    prompted: the same of the first byte of the next token after the prefix's
      own encoding, with nothing masked. It adds up to 1 minus the
      probability of special tokens. -inf everywhere if the prefix has no
      encoding, since it stops inside a character.
    leaked: `float32[n + 1]` probability, after that encoding, of tokens that
      spell bytes, and of the end, that the tokenizer cannot write there.
    unfinished: `float32[n + 1]` share of the prefix's covers, by probability,
      that are no encoding of what they spell: a test by `encode(decode(t))
      == t` loses them, though the tokenizer does write them when other bytes
      follow.
    boundary: `int32[n + 1]` bytes since the last token of the whole text's
      encoding ended; 0 where one ends.
  """

  exact: Float[np.ndarray, "n 257"]
  prompted: Float[np.ndarray, "n 257"]
  leaked: Float[np.ndarray, " n"]
  unfinished: Float[np.ndarray, " n"]
  boundary: Int[np.ndarray, " n"]


class Exact(NamedTuple):
  """Next-byte log-probs after the prefixes of a text of `n` bytes.

  Attributes:
    next: `float32[m, 257]` log-probs of the byte after each of the `m` longest
      prefixes; 256 is the end. -inf everywhere after an impossible prefix.
    byte: `float32[n]` log-prob of each byte, given those before it.
  """

  next: Float[np.ndarray, "m 257"]
  byte: Float[np.ndarray, " n"]


def exact(
  model: Model,
  tables: Tables,
  queries: Sequence[ScoringQuery],
  first: Sequence[int],
  *,
  trust_model: bool = False,
) -> list[Exact]:
  """Next-byte log-probs after prefixes of texts, each text in one pass.

  Args:
    model: the model.
    tables: the tokenizer, on the device.
    queries: the texts, any number of them.
    first: length of the shortest prefix to include, of each text.
    trust_model: see `lemma.rows`; then each row is normalized by itself.

  Raises:
    PromptError: a text is longer than the model's context, or the model's
      logits are not numbers.
  """
  found: list[Exact | None] = [None] * len(queries)
  for batch in scoring.batches(queries):
    run = scoring.run(
      model,
      tables,
      [queries[k] for k in batch],
      trust_model=trust_model,
      first=[first[k] for k in batch],
    )
    weights, ending = jax.device_get((run.weights, run.sums.ending))
    ending = ending.reshape(*run.asked.node.shape, 257)
    for at, k in enumerate(batch):
      one = take((run.host_nodes, run.asked.node, weights, ending), at)
      found[k] = _exact(len(queries[k].text), first[k], *one, trust_model)
  return found


def _exact(size, first, nodes, node, weights, ending, trust_model) -> Exact:
  """Adds up what live starts say; `node[P, W]`, `ending[P, W, 257]`."""
  byte = weights.byte[:size]
  (never,) = np.nonzero(np.isneginf(byte))
  possible = int(never[0]) if len(never) else size
  byte = np.where(np.arange(size) > possible, -np.inf, byte)
  asked = np.arange(first, size + 1)
  rows = np.full((len(asked), 257), -np.inf)
  some = slice(np.searchsorted(asked, possible + 1))
  node, ending = node[: len(asked)][some], ending[: len(asked)][some]
  live = (node != NONE).sum(1).max(initial=0)
  node, ending = node[:, :live], ending[:, :live]
  weight = _weights(nodes, weights, node, asked[some])
  rows[some] = np.logaddexp.reduce(
    weight[:, :, None] + ending, 1, initial=-np.inf
  )
  scoring.check_numbers(byte, rows)
  if trust_model:
    rows[some] -= np.logaddexp.reduce(rows[some], 1)[:, None]
  return Exact(rows.astype(np.float32), byte.astype(np.float32))


def _weights(nodes, weights, node, prefix) -> np.ndarray:
  """Log-weights `[P, W]` of live starts over the prefixes that they stand in.

  Those that are kept are relative to the text that each node spells.
  """
  grown = np.cumsum(weights.grown, dtype=np.float64)
  total = np.append(0.0, grown)
  weight = weights.node[node] + total[nodes.end[node]]
  return np.where(node == NONE, -np.inf, weight - total[prefix][:, None])


class _Found(NamedTuple):
  """Sums taken from the rows of logits so far.

  For each live start after each prefix, `[P, W, ...]`: `following`, `longer`
  and `unfinished`. For each prefix's own encoding, `[P, ...]`: `prompted` and
  `leaked`.
  """

  following: jax.Array
  longer: jax.Array
  unfinished: jax.Array
  prompted: jax.Array
  leaked: jax.Array


def read(model: Model, tables: Tables, query: ScoringQuery) -> Distributions:
  """The distributions after every prefix of a text.

  Args:
    model: the model.
    tables: the tokenizer, on the device.
    query: the text.

  Raises:
    PromptError: the text is longer than the model's context, or the model's
      logits are not numbers.
  """
  run = scoring.run(model, tables, [query])
  size = len(query.text)
  nodes = take(run.host_nodes, 0)
  path, weights = jax.device_get((run.path, run.weights))
  weights = take(weights, 0)
  scoring.check_numbers(weights.byte[:size])
  node, place = take(fronts([query], path, [0]), 0)
  whole = np.append(np.asarray(tables.ends), False)[nodes.states].any(1)
  # The encoding of each prefix: its one node where the text may end.
  own = np.where((place == ROOT) & (node != NONE) & whole[node], node, NONE)
  own = own.max(1)

  found = _nothing(*node.shape)
  cache = model.init_cache(1, run.plan.slots)
  offset = int(run.plan.offset[0])
  for number in range(run.plan.chunks):
    chunk = run.plan.chunk(number)
    rows = [
      np.where(at == NONE, NONE, at + offset - int(chunk.first))
      for at in (node, own)
    ]
    cache, found = _call(
      model.extend, tables, model.params, cache, found, chunk, *rows, place
    )
  every = slice(size + 1)
  found = jax.tree.map(lambda leaf: np.asarray(leaf)[every], found)
  node, place, own = node[every], place[every], own[every]
  scoring.check_numbers(found.following, found.prompted)

  weight = _weights(nodes, weights, node, np.arange(size + 1))
  born = place == ROOT
  covers = weight + np.where(born, 0.0, found.longer)
  lost = weight + np.where(
    born, np.where(whole[node], -np.inf, 0.0), found.unfinished
  )
  exact = np.logaddexp.reduce(weight[:, :, None] + found.following, 1)
  return Distributions(
    exact=exact.astype(np.float32),
    prompted=found.prompted,
    leaked=np.where(own == NONE, np.nan, np.exp(found.leaked)),
    unfinished=np.exp(
      np.logaddexp.reduce(lost, 1) - np.logaddexp.reduce(covers, 1)
    ),
    boundary=_since_boundary(nodes, int(own[-1]), size),
  )


def _since_boundary(nodes, node: int, size: int) -> np.ndarray:
  """Bytes since the last end of a token on a node's path, at every byte.

  Where the text has no encoding (`node` is -1), the path is that of its
  longest prefix that ends a node.
  """
  node = int(nodes.count) - 1 if node == NONE else node
  ends = [0]
  while node > 0:
    ends.append(int(nodes.end[node]))
    node = int(nodes.parent[node])
  last = np.zeros(size + 1, np.int32)
  last[ends] = ends
  return np.arange(size + 1, dtype=np.int32) - np.maximum.accumulate(last)


def _nothing(prefixes: int, width: int) -> _Found:
  """`_Found` before the first chunk."""

  def empty(*shape):
    return jnp.full(shape, -jnp.inf, jnp.float32)

  return _Found(
    following=empty(prefixes, width, 257),
    longer=empty(prefixes, width),
    unfinished=empty(prefixes, width),
    prompted=empty(prefixes, 257),
    leaked=empty(prefixes),
  )


@functools.partial(
  jax.jit, static_argnums=0, donate_argnames=("cache", "found")
)
def _call(
  extend, tables, params, cache, found, chunk: PrefillChunk, row, own, place
):
  """One model call, and what every prefix needs of its rows.

  Args:
    row: `[P, W]` row of each live start, counted from the chunk's first; -1
      for none.
    own: `[P]` the same of each prefix's encoding.
    place: `[P, W]` trie nodes of the live starts.
  """
  logits, cache = extend(
    params, cache, chunk.token, chunk.position, chunk.slot, chunk.attends
  )
  logits, count = logits[0], logits.shape[1]
  standing = jax.tree.map(lambda leaf: leaf[0], chunk.standing)
  exact = lemma.rows(tables, logits, standing)
  free = lemma.rows(tables, logits, standing, trust_model=True)
  open_ = lemma.rows(tables, logits, standing, masked=_unfinished)
  barred = lemma.rows(tables, logits, standing, masked=_barred)

  def inside(row):
    return jnp.where((row >= 0) & (row < count), row, NONE)

  row, own = inside(row), inside(own)
  flat_row, flat_place = row.ravel(), place.ravel()
  following = lemma.next_bytes(tables, exact, flat_row, flat_place)
  low = tables.low[flat_place] + tables.equal[flat_place]
  high = jnp.where(flat_row == NONE, low, tables.high[flat_place])
  longer = lemma.interval_logsumexp(exact, flat_row, low, high)
  unfinished = lemma.interval_logsumexp(open_, flat_row, low, high)
  unfinished -= exact.total[flat_row]
  prompted = lemma.next_bytes(tables, free, own, jnp.zeros_like(own))
  leaked = jnp.where(own == NONE, -jnp.inf, barred.total[own])

  def put(old, new, row):
    new = new.reshape(old.shape)
    there = (row != NONE).reshape(*row.shape, *[1] * (old.ndim - row.ndim))
    return jnp.where(there, new, old)

  return cache, _Found(
    following=put(found.following, following, row),
    longer=put(found.longer, longer, row),
    unfinished=put(found.unfinished, unfinished, row),
    prompted=put(found.prompted, prompted, own),
    leaked=put(found.leaked, leaked, own),
  )


def _unfinished(tables, standing):
  """Tokens that may follow, but with which the text could not end."""
  ends = (tables.next != NONE) & tables.ends[tables.next]
  ending = dataclasses.replace(tables, next=jnp.where(ends, tables.next, NONE))
  allowed, may_end = lemma.mask(tables, standing)
  return allowed & ~lemma.mask(ending, standing)[0], may_end & False


def _barred(tables, standing):
  """Tokens that may not follow, and the end where the text cannot end."""
  allowed, may_end = lemma.mask(tables, standing)
  return ~allowed, ~may_end
