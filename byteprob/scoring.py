"""Host: whole texts in one pass over their nodes; the device does the work.

A text's nodes do not depend on the model, so they are found first. Then the
model is called on them, a chunk at a time, each node attending to its
ancestors alone; a chunk's rows are reduced to the few numbers that the text
needs of them before the next chunk begins. Many texts go side by side.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byteprob import lemma, marginal, token_tree
from byteprob.errors import PromptError
from byteprob.plan import (
  PrefillChunk,
  PrefillSchedule,
  ScoringQuery,
  fronts,
  pad_texts,
  round_up_to_bucket,
  take,
)
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Model

MAX_ROWS = 512
"""Rows of one model call, for one text."""

MAX_BATCH_BYTES = 2**13
"""Bytes of all texts that go side by side."""

MAX_LOGITS = 2**26
"""Logits of one model call, for all texts."""


class Score(NamedTuple):
  """Results of scoring one text of `n` bytes with `N` nodes.

  Attributes:
    byte: `float32[n]` log-prob of each byte given those before it.
    next: `float32[257]` log-probs of the byte after the text, and of its end.
    total: log-prob of all covers of the text. It is the sum of `byte`, except
      with `trust_model`, which normalizes each byte but not the covers.
    nodes: the nodes.
    node_weight: `float32[N]` log of each node's probability over that of the
      bytes that it spells.
    allowed: `float32[N]` log of the probability that the model, unmasked,
      gives to the tokens (and the end) allowed after each node.
    front: node and trie node of the live starts at the text's end, and their
      weights over the whole text's.
    front_rows: `float32[W, Y]` log-probs of the tokens after them; None
      without the flag `keep_rows`.
  """

  byte: np.ndarray
  next: np.ndarray
  total: float
  nodes: token_tree.TokenTree
  node_weight: np.ndarray
  allowed: np.ndarray
  front: tuple[np.ndarray, np.ndarray, np.ndarray]
  front_rows: np.ndarray | None


def score(
  model: Model,
  tables: Tables,
  queries: Sequence[ScoringQuery],
  *,
  trust_model: bool = False,
  keep_rows: bool = False,
) -> list[Score]:
  """Scores texts side by side.

  Args:
    model: the model.
    tables: the tokenizer, on the device.
    queries: the texts; of like lengths, or the shorter ones wait.
    trust_model: see `lemma.rows`.
    keep_rows: return `front_rows`.

  Raises:
    PromptError: a text is longer than the model's context, or the model's
      logits are not numbers.
  """
  done = run(
    model, tables, queries, trust_model=trust_model, keep_rows=keep_rows
  )
  weights_, sums = jax.device_get(
    (done.weights, done.sums._replace(follow=None))
  )
  scores = []
  for k, query in enumerate(queries):
    one = take((weights_, sums, done.host_nodes, done.host_front), k)
    scores.append(_score(query, int(done.plan.offset[k]), *one, trust_model))
  return scores


class Run(NamedTuple):
  """All that a pass over texts leaves behind, `[B, ...]` each.

  Attributes:
    plan: of the model calls.
    cache: the model's, with the ancestors of all live starts.
    nodes, front, path: see `token_tree.read`.
    host_nodes, host_front: the same on the host.
    asked: the live starts that `sums.ending` tells of, `[B, P, W]`: those
      after `P` prefixes, or at the end.
    sums: what was kept of the rows.
    weights: see `marginal.Weights`.
  """

  plan: PrefillSchedule
  cache: Cache
  nodes: token_tree.TokenTree
  front: token_tree.Front
  path: token_tree.FrontierHistory
  host_nodes: token_tree.TokenTree
  host_front: token_tree.Front
  asked: token_tree.FrontierHistory
  sums: "Sums"
  weights: marginal.Weights


def run(
  model: Model,
  tables: Tables,
  queries: Sequence[ScoringQuery],
  *,
  trust_model: bool = False,
  keep_rows: bool = False,
  first: Sequence[int] | None = None,
) -> Run:
  """One pass over texts; see `score`.

  Args:
    model, tables, queries, trust_model, keep_rows: see `score`.
    first: for each text, what follows all prefixes from this length on is
      asked about, not only what follows its end. Then no rows are kept.
  """
  nodes, front, path = read(tables, queries)
  host_nodes, host_front, standing = jax.device_get(
    (nodes, front, _standing(tables, nodes, path))
  )
  if first is None:
    asked = token_tree.FrontierHistory(
      host_front.node[:, None], host_front.place[:, None]
    )
  else:
    asked = fronts(queries, jax.device_get(path), first)
  most = MAX_LOGITS // (model.vocab_size * len(queries))
  plan = PrefillSchedule(
    tables,
    queries,
    host_nodes,
    host_front,
    standing,
    most=min(max(most, 16), MAX_ROWS),
    context_length=model.context_length,
    asked=token_tree.FrontierHistory(
      *(leaf.reshape(len(queries), -1) for leaf in asked)
    ),
  )
  cache = model.init_cache(len(queries), plan.slots)
  sums = _nothing(
    tables,
    (len(queries), plan.chunks * plan.rows),
    (len(queries), asked.node[0].size),
    trust_model,
    keep_rows and first is None,
  )
  text, length = pad_texts(queries)
  for chunk in range(plan.chunks):
    cache, sums = _call(
      model.extend,
      tables,
      model.params,
      cache,
      sums,
      plan.chunk(chunk),
      text,
      length,
    )
  return Run(
    plan=plan,
    cache=cache,
    nodes=nodes,
    front=front,
    path=path,
    host_nodes=host_nodes,
    host_front=host_front,
    asked=asked,
    sums=sums,
    weights=_weigh(tables, nodes, path, length, plan.offset, sums),
  )


def score_many(
  model: Model, tables: Tables, queries: Sequence[ScoringQuery], **kwargs
) -> list[Score]:
  """`score` for any number of texts; see `batches`."""
  found: list[Score | None] = [None] * len(queries)
  for batch in batches(queries):
    scores = score(model, tables, [queries[k] for k in batch], **kwargs)
    for k, one in zip(batch, scores, strict=True):
      found[k] = one
  return found


def batches(queries: Sequence[ScoringQuery]) -> Iterator[list[int]]:
  """Any number of texts by number: like lengths together, bounded batches.

  Batches have powers of two of texts, so that few shapes are compiled.
  """
  order = sorted(range(len(queries)), key=lambda k: len(queries[k].text))
  while order:
    longest = len(queries[order[-1]].text)
    most = max(1, MAX_BATCH_BYTES // round_up_to_bucket(max(longest, 1)))
    size = 1 << (min(len(order), most).bit_length() - 1)
    yield order[-size:]
    order = order[:-size]


def check_numbers(*parts: np.ndarray | jax.Array) -> None:
  """Refuses what was made of logits that are not numbers.

  Raises:
    PromptError: there is a NaN.
  """
  if any(np.isnan(part).any() for part in parts):
    raise PromptError(
      "The model's logits are not numbers (NaN): its weights are broken, or"
      " its dtype is too narrow for them."
    )


def read(
  tables: Tables, queries: Sequence[ScoringQuery]
) -> tuple[token_tree.TokenTree, token_tree.Front, token_tree.FrontierHistory]:
  """The nodes of texts, with as much room as they turn out to need."""
  return read_on(tables, queries)[1]


def read_on(
  tables: Tables,
  queries: Sequence[ScoringQuery],
  more: int = 0,
  capacity: token_tree.Capacity | None = None,
) -> tuple[
  token_tree.Capacity,
  tuple[token_tree.TokenTree, token_tree.Front, token_tree.FrontierHistory],
]:
  """`read` with room for `more` bytes, and the capacity that was needed.

  Args:
    tables: the tokenizer.
    queries: the texts.
    more: bytes that may be read after each.
    capacity: what has turned out to be too small.
  """
  text, length = pad_texts(queries, more)
  start = np.array([query.start for query in queries], np.int32)
  size = text.shape[1]
  if capacity is None:
    capacity = token_tree.Capacity(
      nodes=size + size // 4 + 16, states=tables.hypotheses
    )
  else:
    capacity = capacity.twice()
  while True:
    found = _read(tables, capacity, text, length, start)
    if not np.asarray(found[1].overflow).any():
      return capacity, found
    capacity = capacity.twice()


def nodes(tables: Tables, query: ScoringQuery) -> token_tree.TokenTree:
  """The nodes of one text, on the host, without padding."""
  found = take(jax.device_get(read(tables, [query])[0]), 0)
  return _cut_nodes(found)


def paths(
  nodes: token_tree.TokenTree, token_id: np.ndarray
) -> list[tuple[int, ...]]:
  """The token ids of every node."""
  found: list[tuple[int, ...]] = [()]
  for token, parent in zip(nodes.token[1:], nodes.parent[1:], strict=True):
    found.append((*found[parent], int(token_id[token])))
  return found


def path(
  nodes: token_tree.TokenTree, node: int, token_id: np.ndarray
) -> tuple[int, ...]:
  """The token ids of one node."""
  found: list[int] = []
  while node > 0:
    found.append(int(token_id[nodes.token[node]]))
    node = int(nodes.parent[node])
  return tuple(found[::-1])


def list_nodes(tables: Tables, text: bytes) -> list[tuple[int, ...]]:
  """Every node of a text, as a tuple of token ids, by its end.

  For reading and for tests. A node is a token sequence that the tokenizer can
  begin with and that spells the text or a prefix of it; the empty one is
  first. Where the tokenizer puts a space before a text, that space counts as
  the text's.

  Args:
    tables: the tokenizer.
    text: bytes of the working text: normalized, spaces as spaces.
  """
  if (tables.info.prefix and not text.startswith(b" ")) or (
    tables.info.prefix == "always"
  ):
    text = b" " + text
  query = ScoringQuery(prefix=(0,), text=text, start=tables.start)
  return paths(nodes(tables, query), np.asarray(tables.token_id))


@jax.jit
def _standing(tables, nodes, path):
  """`token_tree.standing` of all nodes of all texts."""
  stand = functools.partial(token_tree.standing, tables)
  every = jnp.arange(nodes.token.shape[1])
  return jax.vmap(stand, in_axes=(0, 0, None))(nodes, path, every)


_read = jax.jit(token_tree.read, static_argnames=("capacity",))


class Sums(NamedTuple):
  """Sums taken from all rows, `[B, N', ...]`, and from the text's end.

  Attributes:
    follow: see `lemma.Continuations`.
    allowed: `[B, N']` see `Score`.
    ending: `[B, W, 257]` from `lemma.next_bytes`, for the live starts of
      `Run.asked`.
    front_rows: their rows, `[B, W, ...]`; None if not kept.
  """

  follow: lemma.Continuations | None
  allowed: jax.Array
  ending: jax.Array
  front_rows: lemma.TokenLogProbs | None


def _nothing(tables, rows, front, trust_model, keep_rows):
  """`Sums` before the first chunk."""

  def empty(*shape):
    return jnp.full(shape, -jnp.inf, jnp.float32)

  deep = tables.longest
  return Sums(
    follow=lemma.Continuations(
      starts=empty(*rows, deep),
      exact=empty(*rows, deep, tables.most_twins),
      beyond=empty(*rows, deep) if trust_model else None,
    ),
    allowed=empty(*rows),
    ending=empty(*front, 257),
    front_rows=lemma.no_rows(tables, *front) if keep_rows else None,
  )


@functools.partial(jax.jit, static_argnums=0, donate_argnames=("cache", "sums"))
def _call(
  extend, tables, params, cache, sums, chunk: PrefillChunk, text, length
):
  """One model call, and what the texts need of its rows."""
  logits, cache = extend(
    params, cache, chunk.token, chunk.position, chunk.slot, chunk.attends
  )
  batch, count = chunk.token.shape

  def flat(array):
    return array.reshape(batch * count, *array.shape[2:])

  def put(old, new):
    new = new.reshape(batch, count, *new.shape[1:])
    return jax.lax.dynamic_update_slice_in_dim(old, new, chunk.first, 1)

  trust_model = sums.follow.beyond is not None
  rows = lemma.rows(
    tables,
    flat(logits),
    jax.tree.map(flat, chunk.standing),
    trust_model=trust_model,
  )
  follow = lemma.follow_text(
    tables,
    rows,
    flat(chunk.end),
    text,
    length,
    jnp.repeat(jnp.arange(batch), count),
    beyond=trust_model,
  )
  here = chunk.front_row >= 0
  row = chunk.front_row + count * jnp.arange(batch)[:, None]
  row = jnp.where(here, row, lemma.NONE).ravel()
  ending = lemma.next_bytes(tables, rows, row, chunk.front_place.ravel())
  ending = ending.reshape(sums.ending.shape)
  front_rows = sums.front_rows
  if front_rows is not None:

    def keep(old, new):
      new = new[row].reshape(old.shape)
      return jnp.where(
        here.reshape(*here.shape, *[1] * (old.ndim - 2)), new, old
      )

    front_rows = jax.tree.map(keep, front_rows, rows)
  return cache, Sums(
    follow=jax.tree.map(put, sums.follow, follow),
    allowed=put(sums.allowed, rows.total),
    ending=jnp.where(here[:, :, None], ending, sums.ending),
    front_rows=front_rows,
  )


@jax.jit
def _weigh(tables, nodes, path, length, offset, sums):
  """`marginal.marginalize` of all texts."""
  marginalize = functools.partial(marginal.marginalize, tables)
  return jax.vmap(marginalize)(
    nodes, path, length, offset, sums.follow, sums.allowed
  )


def _cut_nodes(nodes: token_tree.TokenTree) -> token_tree.TokenTree:
  count = nodes.count
  rest = jax.tree.map(lambda leaf: leaf[:count], nodes._replace(count=None))
  return rest._replace(count=count)


def _score(query, offset, read_, sums, nodes, front, trust_model) -> Score:
  """Cuts the padding off."""
  count = int(nodes.count)
  live = front.node >= 0
  byte = read_.byte[: len(query.text)]
  check_numbers(byte, read_.front, sums.ending)
  following = np.logaddexp.reduce(read_.front[:, None] + sums.ending)
  if trust_model:
    following -= np.logaddexp.reduce(following)
  return Score(
    byte=byte,
    next=following.astype(np.float32),
    total=float(read_.total),
    nodes=_cut_nodes(nodes),
    node_weight=read_.node[:count],
    allowed=sums.allowed[offset : offset + count],
    front=(front.node[live], front.place[live], read_.front[live]),
    front_rows=sums.front_rows and sums.front_rows.token[live],
  )
