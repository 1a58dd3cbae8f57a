"""Host: where texts that are drawn token by token start.

Either at given token ids, or at a cover of the context that is drawn in
proportion to its probability.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from byteprob import lemma, scoring, token_tree
from byteprob.errors import PromptError
from byteprob.numerics import logsumexp
from byteprob.plan import (
  ScoringQuery,
  distinct,
  round_up_to_bucket,
  spread,
  take,
)
from byteprob.sampling.trail import Spelling
from byteprob.token_tree import NONE, ROOT
from byteprob.tokenization import spell_all
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Model

MAX_ROWS = 2**12
"""Rows of one model call that only fills the cache, for all texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A context to draw a cover of.

  Attributes:
    query: its working text.
    ending: log-weight of an end that the query's nodes do not tell of.
    key: the random key of its text.
  """

  query: ScoringQuery
  ending: float
  key: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """Where a text starts.

  Attributes:
    ids: token ids before it, at least one.
    rest: bytes of the context that come after them.
    key: the random key of the text.
    bare: a space that comes first is not the text's.
    weight: log-prob of `ids` given the context.
    ended: it has ended at once.
  """

  ids: tuple[int, ...]
  rest: bytes
  key: jax.Array
  bare: bool = False
  weight: float = 0.0
  ended: bool = False


def spell(tables: Tables, vocab_size: int) -> Spelling:
  """The bytes of all tokens, for a model with so many logits."""
  size = np.asarray(tables.length)
  begin = np.cumsum(size) - size
  # A token may be read as if it had the longest one's length.
  text = b"".join(spell_all(tables)) + bytes(tables.longest)
  place = np.full(vocab_size, NONE, np.int32)
  own = np.flatnonzero(size)
  place[np.asarray(tables.token_id)[own]] = own
  return Spelling(
    place=jnp.asarray(place),
    begin=jnp.asarray(begin, jnp.int32),
    text=jnp.asarray(np.frombuffer(text, np.uint8)),
  )


def join(
  tables: Tables, spelling: Spelling, tokens: Sequence[int] | np.ndarray
) -> bytes:
  """The bytes of tokens, given by their model ids."""
  place, begin, text = map(np.asarray, spelling)
  size = np.asarray(tables.length)
  at = place[np.asarray(tokens, int)]
  return b"".join(
    text[low:high].tobytes()
    for low, high in zip(begin[at], begin[at] + size[at], strict=True)
  )


def fill(model: Model, starts: Sequence[Start], more: int) -> Cache:
  """A cache with the rows of all given tokens but each text's last.

  The tokens of several texts are read once.

  Args:
    model: the model.
    starts: where the texts start.
    more: how many tokens are likely to follow.

  Raises:
    PromptError: there are more ids than the model's context has room for.
  """
  given, places = distinct([start.ids for start in starts])
  longest = max(map(len, given))
  if longest > model.context_length:
    raise PromptError(
      f"The text needs {longest} tokens and the model's context has"
      f" {model.context_length}; shorten it."
    )
  count = np.array([len(ids) - 1 for ids in given], np.int32)
  cache = model.init_cache(len(given), round_up_to_bucket(longest + more))
  rows = min(round_up_to_bucket(longest), max(MAX_ROWS // len(given), 1))
  tokens = np.zeros((len(given), longest + rows), np.int32)
  for row, ids in zip(tokens, given, strict=True):
    row[: len(ids)] = ids
  for first in range(0, longest - 1, rows):
    part = tokens[:, first : first + rows]
    cache = _extend(
      model.extend, model.params, cache, part, np.int32(first), count
    )
  return spread(cache, places)


@functools.partial(jax.jit, static_argnums=0, donate_argnames="cache")
def _extend(extend, params, cache, tokens, first, count):
  """The cache after more tokens; nobody asks for their logits."""
  batch, rows = tokens.shape
  slots = jax.tree.leaves(cache)[0].shape[1]
  at = first + jnp.arange(rows, dtype=jnp.int32)
  slot = jnp.where(at[None] < count[:, None], at[None], slots)
  attends = jnp.arange(slots)[None] <= at[:, None]
  return extend(
    params,
    cache,
    tokens,
    jnp.broadcast_to(at[None], (batch, rows)),
    slot,
    jnp.broadcast_to(attends[None], (batch, rows, slots)),
  )[1]


class Covers(NamedTuple):
  """Covers that were drawn, of `B` contexts.

  Attributes:
    starts: where the texts start: at the node that the cover's last token
      follows.
    cache: with the rows of these nodes and of those before them.
    node: `int32[B]` the nodes, among
    nodes: all of each context's.
  """

  starts: list[Start]
  cache: Cache
  node: jax.Array
  nodes: token_tree.TokenTree


def draw_covers(
  model: Model,
  tables: Tables,
  prompts: Sequence[Prompt],
  more: int,
  *,
  greedy: bool,
  trust_model: bool,
) -> Covers:
  """Draws the node that a cover's last token follows, for each context.

  Args:
    model, tables: the model and its tokenizer.
    prompts: the contexts.
    more: how many tokens are likely to follow.
    greedy: take the most probable one.
    trust_model: see `lemma.rows`.

  Raises:
    PromptError: a prompt is longer than the model's context, or the model's
      logits are not numbers.
  """
  queries, places = distinct([prompt.query for prompt in prompts])
  done = scoring.run(
    model, tables, queries, trust_model=trust_model, keep_rows=True
  )
  scoring.check_numbers(done.sums.ending)
  lane, weight = jax.device_get(
    _draw_node(
      tables,
      *spread((done.sums.front_rows, done.front, done.weights.front), places),
      jnp.array([prompt.ending for prompt in prompts], jnp.float32),
      jnp.stack([prompt.key for prompt in prompts]),
      greedy,
      trust_model,
    )
  )
  front = spread(done.host_front, places)
  # An end before any token stands at the root.
  live = np.append(front.node, np.zeros((len(lane), 1), np.int32), axis=1)
  node = live[np.arange(len(lane)), lane]
  ids = np.asarray(tables.token_id)
  starts, slots = [], []
  for k, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
    own, at = take(done.host_nodes, place), int(node[k])
    starts.append(
      Start(
        ids=(*prompt.query.prefix, *scoring.path(own, at, ids)),
        rest=prompt.query.text[own.end[at] :],
        key=prompt.key,
        weight=float(weight[k]),
        ended=bool(lane[k] == front.node.shape[1]),
      )
    )
    slots.append(done.plan.path(place, at))
  # The rows of all other nodes are done with.
  order = np.zeros(
    (len(slots), round_up_to_bucket(max(map(len, slots)) + more)), np.int32
  )
  for row, path in zip(order, slots, strict=True):
    row[: len(path)] = path
  cache = _moved_slots(done.cache, order, places)
  return Covers(starts, cache, jnp.asarray(node), spread(done.nodes, places))


@functools.partial(jax.jit, static_argnames="trust_model")
def _draw_node(tables, rows, front, weight, ending, key, greedy, trust_model):
  """Draws the node that the last token of a cover follows.

  Returns:
    Its lane, `W` for an end of the text that no live start tells of; and the
    log of the node's weight over that of all that may come.
  """
  batch, width = front.node.shape
  place = front.place.ravel()
  rows = jax.tree.map(
    lambda leaf: leaf.reshape(batch * width, *leaf.shape[2:]), rows
  )
  beyond = lemma.interval_logsumexp(
    rows,
    jnp.arange(batch * width),
    tables.low[place] + tables.equal[place],
    tables.high[place],
  )
  whole = rows.total if trust_model else jnp.zeros_like(beyond)
  share = jnp.where(place == ROOT, whole, beyond).reshape(batch, width)
  there = front.node != NONE
  weight = jnp.append(weight, ending[:, None], axis=1)
  share = jnp.append(
    jnp.where(there, share, -jnp.inf), jnp.zeros((batch, 1)), axis=1
  )

  def noise(key):
    return jax.random.gumbel(jax.random.fold_in(key, 0), (width + 1,))

  value = weight + share
  noisy = value + jnp.where(greedy, 0.0, jax.vmap(noise)(key))
  lane = noisy.argmax(1)
  own = jnp.take_along_axis(weight, lane[:, None], axis=1)[:, 0]
  return lane, own - logsumexp(value, 1)


def _moved_slots(
  cache: Cache, order: Int[Array, "B s"], places: Int[np.ndarray, " B"]
) -> Cache:
  """A cache `[b, S, ...]` with only the slots of an order, in that order.

  Args:
    cache: of distinct texts.
    order: the slots that each text keeps.
    places: which of the distinct ones each text is; see `plan.distinct`.
  """
  if len(places) == len(jax.tree.leaves(cache)[0]):
    # Each device of a mesh moves its own texts.
    return _moved(cache, order)
  return _moved_apart(cache, order, places)


@jax.jit
def _moved(cache, order):
  move = jax.vmap(lambda leaf, order: leaf[order])
  return jax.tree.map(lambda leaf: move(leaf, order), cache)


@jax.jit
def _moved_apart(cache, order, places):
  return jax.tree.map(lambda leaf: leaf[places[:, None], order], cache)
