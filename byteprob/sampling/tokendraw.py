"""Device: which token comes next, of a whole vocabulary.

All of it is made for rows of many tokens: nothing is sorted, and two random
numbers draw one.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from byteprob.engine.request import LogitWarpers
from byteprob.rules.common import child
from byteprob.sampling.trail import Spelling
from byteprob.token_tree import NONE
from byteprob.tokenization.tables import Tables

_BLOCK = 128
"""Tokens that are drawn from at a time."""

_ONE = int(np.float32(1).view(np.int32))
"""Bits of 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
  """Static arguments of drawing a token.

  Attributes:
    match: which tokens match the bytes of the context that are left: those
      that start with all of them ("starts"); only the longer ones of these
      ("beyond"); or these and the tokens that are a prefix of the bytes
      ("parts").
    greedy, top_k, top_p: whether these warpers are in use.
  """

  match: Literal["starts", "beyond", "parts"]
  greedy: bool
  top_k: bool
  top_p: bool


def restrict(
  how: How,
  tables: Tables,
  spelling: Spelling,
  rest: UInt8[Array, "B L"],
  left: Int[Array, " B"],
  values: Float[Array, "B V"],
) -> Float[Array, "B V"]:
  """Only the tokens that go with the bytes of the context that are left.

  Source: character matching, Athiwaratkun et al. 2024.

  Args:
    how: see `How.match`.
    tables: the tokenizer.
    spelling: bytes of its tokens.
    rest: bytes of the context, at the end of each row.
    left: how many of them are left.
    values: log-probs by model id.

  Returns:
    The same, -inf for the other tokens; as they are where no bytes are left.
  """
  batch, size = rest.shape
  each = jnp.arange(batch)

  def go_on(carry):
    at, place, _, _ = carry
    return ((at < left) & (place != NONE)).any()

  def read(carry):
    at, place, low, high = carry
    byte = rest[each, size - left + at].astype(jnp.int32)
    place = jnp.where(at < left, child(tables, place, byte), NONE)
    here = place != NONE
    start, stop = tables.low[place], tables.high[place]
    longer = start + tables.equal[place]
    if how.match == "beyond":
      start = longer
    part = longer if how.match == "parts" else start
    stop = jnp.where(at + 1 == left, stop, part)
    low = low.at[:, at].set(jnp.where(here, start, 0))
    high = high.at[:, at].set(jnp.where(here, stop, 0))
    return at + 1, place, low, high

  # The byte after the longest token's last leads nowhere.
  nothing = jnp.zeros((batch, tables.longest + 1), jnp.int32)
  root = jnp.zeros(batch, jnp.int32)
  start = (jnp.int32(0), root, nothing, nothing)
  _, _, low, high = jax.lax.while_loop(go_on, read, start)
  edges = jnp.zeros((batch, len(tables.token_id) + 1), jnp.int32)
  edges = edges.at[each[:, None], low].add(1).at[each[:, None], high].add(-1)
  fits = jnp.cumsum(edges, axis=1)[:, spelling.place] > 0
  fits &= (spelling.place != NONE)[None]
  return jnp.where(fits | (left == 0)[:, None], values, -jnp.inf)


def draw(
  how: How,
  controls: LogitWarpers,
  key: jax.Array,
  step: Int[Array, " B"],
  values: Float[Array, "B V"],
) -> Int[Array, " B"]:
  """Draws a token of each row, by its model id; any if none is possible.

  Args:
    how: which controls are in use.
    controls: their values.
    key: `key[B]` of each text.
    step: what is folded into it.
    values: log-probs, -inf for what is impossible; normalized or not.
  """
  if how.greedy:
    return values.argmax(1).astype(jnp.int32)
  kept = weights(how, controls, values)
  short = -kept.shape[1] % _BLOCK
  kept = jnp.pad(kept, ((0, 0), (0, short))).reshape(len(kept), -1, _BLOCK)

  def uniform(key, step):
    return jax.random.uniform(jax.random.fold_in(key, step), (2,))

  # A block, then a token of it: rounding stays away from what is rare, and
  # noise for every token would cost more than all else.
  lots = jax.vmap(uniform)(key, step)
  block = pick(kept.sum(2), lots[:, 0])
  inside = jnp.take_along_axis(kept, block[:, None, None], axis=1)[:, 0]
  return block * _BLOCK + pick(inside, lots[:, 1])


def weights(
  how: How, controls: LogitWarpers, values: Float[Array, "B V"]
) -> Float[Array, "B V"]:
  """Probabilities of each row after the warpers, over the row's largest.

  The warpers are those of `request.warp`: of tokens that tie, the lower ids
  stay.
  """
  scaled = values / controls.temperature
  weight = jnp.exp(scaled - scaled.max(1)[:, None])
  if how.top_k:
    need = jnp.full(len(weight), controls.top_k, jnp.float32)
    weight = _fewest(weight, jnp.ones_like(weight), need)
  if how.top_p:
    weight = _fewest(weight, weight, controls.top_p * weight.sum(1))
  return jnp.where(weight >= controls.min_p, weight, 0.0)


def pick(
  weight: Float[Array, "B N"], lot: Float[Array, " B"]
) -> Int[Array, " B"]:
  """The first place where the sum passes a share `lot` of the whole."""
  sums = jnp.cumsum(weight, axis=1)
  passed = sums > (lot * sums[:, -1])[:, None]
  # Sums are rounded: what has no weight must not be picked for that.
  found = jnp.where(weight > 0, 1 + passed, 0).argmax(1)
  return found.astype(jnp.int32)


def _fewest(weight, measure, need):
  """Keeps the fewest largest weights that measure at least `need` together.

  Of weights that tie the first stay. Found by halving, which is faster than
  sorting a vocabulary.

  Args:
    weight: `float32[B, V]` between 0 and 1.
    measure: `float32[B, V]` the same for weights that are the same.
    need: `float32[B]` above 0.

  Returns:
    The weights, 0 for those that do not stay.
  """
  # Floats that are not negative are in the order of their bits.
  bits = jax.lax.bitcast_convert_type(weight, jnp.int32)

  def total(some):
    return jnp.where(some, measure, 0.0).sum(1)

  def halve(enough, low, high):
    """The last number from `low` on, below `high`, that is enough."""

    def body(_, bounds):
      low, high = bounds
      middle = (low + high) // 2
      good = enough(middle[:, None])
      return jnp.where(good, middle, low), jnp.where(good, high, middle)

    bounds = tuple(jnp.full(len(need), end, jnp.int32) for end in (low, high))
    rounds = (high - low).bit_length()
    return jax.lax.fori_loop(0, rounds, body, bounds)[0][:, None]

  least = halve(lambda bit: total(bits >= bit) >= need, 0, _ONE + 1)
  above, ties = bits > least, bits == least
  lacking = need - total(above)
  order = jnp.arange(weight.shape[1], dtype=jnp.int32)[None]
  last = halve(
    lambda stop: total(ties & (order < stop)) < lacking, 0, weight.shape[1]
  )
  return jnp.where(above | (ties & (order <= last)), weight, 0.0)
