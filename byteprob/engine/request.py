"""Device: how bytes are drawn, all of it data: no shape depends on it.

Warpers act on the 257 symbols of the byte-level model. A draw is the argmax of
the warped log-probs plus Gumbel noise that depends on the key alone. Where only
bounds of the probabilities are known, the draw is often decided all the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import constraints
from byteprob.constraints import Constraint


class LogitWarpers(NamedTuple):
  """What is done to log-probs before a draw.

  Attributes:
    temperature: `float32[]`, log-probs are divided by it.
    top_k: `int32[]`, only the most probable so many; 257 or more for all.
    top_p: `float32[]`, only the fewest symbols that have this probability
      together.
    min_p: `float32[]`, only those with at least this share of the largest.
    greedy: `bool[]`, always the most probable.
  """

  temperature: Float[Array, ""]
  top_k: Int[Array, ""]
  top_p: Float[Array, ""]
  min_p: Float[Array, ""]
  greedy: Bool[Array, ""]


class DecodeRequest(NamedTuple):
  """What is wanted of all texts.

  Attributes:
    warpers: how bytes are drawn.
    stops: `uint8[K, L]` stop strings, padded on the left.
    stop_length: `int32[K]` their lengths; 0 for none.
    constraint: what the texts must match.
    eps: `float32[]` nodes with a smaller share of the text's probability when
      they are born are left out.
    exact: `bool[]` every entry is evaluated before each byte, so that its
      log-prob is known exactly.
    settle: `bool[]` every entry is evaluated in the end.
  """

  warpers: LogitWarpers
  stops: UInt8[Array, "K L"]
  stop_length: Int[Array, " K"]
  constraint: Constraint
  eps: Float[Array, ""]
  exact: Bool[Array, ""]
  settle: Bool[Array, ""]


def warp(
  warpers: LogitWarpers, logprobs: Float[Array, " A"]
) -> Float[Array, " A"]:
  """Scaled log-probs, not normalized, -inf for what is cut off.

  The temperature comes first; then each of top-k, top-p and min-p looks at
  what the one before has left. Of symbols that tie the lower ones stay.
  """
  scaled = logprobs / warpers.temperature
  before = _before(scaled)
  kept = jnp.where(before.sum(1) < warpers.top_k, scaled, -jnp.inf)
  share = jax.nn.softmax(kept)
  # The first always stays.
  keep = jnp.where(before, share[None], 0.0).sum(1) < warpers.top_p
  keep |= ~before.any(1)
  keep &= share >= warpers.min_p * share.max()
  return jnp.where(keep, kept, -jnp.inf)


def _before(values):
  """Whether each symbol (row) comes after each other one, by its value.

  Pairs are compared: a sort of 257 values takes longer to compile and to run.
  """
  each = jnp.arange(len(values))
  ties = (values[None] == values[:, None]) & (each[None] < each[:, None])
  return (values[None] > values[:, None]) | ties


def cuts(warpers: LogitWarpers) -> Bool[Array, ""]:
  """Whether the warpers cut symbols off."""
  return (warpers.top_k < 257) | (warpers.top_p < 1) | (warpers.min_p > 0)


def draw(
  warpers: LogitWarpers,
  key: jax.Array,
  lower: Float[Array, "B A"],
  upper: Float[Array, "B A"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
  """Draws a symbol of each text from bounds of its distribution.

  Args:
    warpers: how.
    key: `key[B]` of this step; it decides everything.
    lower, upper: bounds of log-probs in nats, normalized by the same unknown
      number; equal where they are known.

  Returns:
    The symbols (256 for the end), and whether any distribution between the
    bounds would give the same; trust nothing else.
  """
  noise = jax.vmap(lambda one: jax.random.gumbel(one, lower.shape[1:]))(key)
  noise = jnp.where(warpers.greedy, 0.0, noise)
  temperature = jnp.where(warpers.greedy, 1.0, warpers.temperature)
  warpers = warpers._replace(temperature=temperature)

  def plain():
    noisy = lower / temperature + noise
    symbol = noisy.argmax(1).astype(jnp.int32)
    return symbol, _wins(temperature, noise, lower, upper, symbol)

  def cut():
    kept = jax.vmap(lambda one: warp(warpers, one))(lower)
    symbol = (kept + noise).argmax(1).astype(jnp.int32)
    sure, lost = jax.vmap(lambda *one: _cut_off(warpers, *one))(
      lower, upper, symbol
    )
    rivals = jnp.where(lost, -jnp.inf, upper)
    return symbol, sure & _wins(temperature, noise, lower, rivals, symbol)

  symbol, decided = jax.lax.cond(cuts(warpers) & ~warpers.greedy, cut, plain)
  # Where everything is known there is nothing to wait for.
  return symbol, decided | (lower == upper).all(1)


def _wins(temperature, noise, lower, upper, symbol):
  """Whether each symbol wins even if all others are at their upper bounds."""
  own = jnp.take_along_axis(lower, symbol[:, None], 1) / temperature
  own += jnp.take_along_axis(noise, symbol[:, None], 1)
  rival = upper / temperature + noise
  other = jnp.arange(lower.shape[1])[None] != symbol[:, None]
  return (jnp.where(other, rival, -jnp.inf) < own).all(1) & jnp.isfinite(
    own[:, 0]
  )


def _cut_off(warpers, lower, upper, symbol):
  """Whether a symbol surely stays, and which others surely go, `[A]`."""
  low, high = lower / warpers.temperature, upper / warpers.temperature
  top = high.max()
  low, high = jnp.exp(low - top), jnp.exp(high - top)
  each = jnp.arange(len(low))
  # `before[a, b]`: b surely, or maybe, stands before a.
  surely = low[None] > high[:, None]
  maybe = (high[None] >= low[:, None]) & (each[None] != each[:, None])
  least = jnp.where(_before(low).sum(1) < warpers.top_k, low, 0.0).sum()
  most = high.sum()
  before = jnp.where(maybe[symbol], high, 0.0).sum()
  stays = maybe[symbol].sum() < warpers.top_k
  stays &= (before < warpers.top_p * least) | ~maybe[symbol].any()
  stays &= low[symbol] >= warpers.min_p * high.max()
  gone = surely.sum(1) >= warpers.top_k
  gone |= jnp.where(surely, low[None], 0.0).sum(1) >= warpers.top_p * most
  gone |= high < warpers.min_p * low.max()
  return stays, gone


def allowed(request: DecodeRequest, state: Int[Array, " B"]):
  """Which symbols the constraint lets come next, `bool[B, 257]`."""
  return jax.vmap(lambda one: constraints.allowed(request.constraint, one))(
    state
  )


def constraint_step(
  request: DecodeRequest, state: Int[Array, " B"], byte: Int[Array, " B"]
) -> Int[Array, " B"]:
  """The constraint's state after a symbol of each text, -1 if forbidden."""
  return jax.vmap(lambda *one: constraints.step(request.constraint, *one))(
    state, byte
  )


def complete(request: DecodeRequest, state: Int[Array, " B"]):
  """Whether nothing may follow but the end, `bool[B]`."""
  return jax.vmap(lambda one: constraints.complete(request.constraint, one))(
    state
  )


def stopped(
  request: DecodeRequest,
  recent: UInt8[Array, "B L"],
  length: Int[Array, " B"],
) -> Bool[Array, " B"]:
  """Whether a stop string ends at the last byte.

  Args:
    request: what is wanted.
    recent: the last bytes drawn, at the end of each row.
    length: bytes drawn.
  """
  longest = request.stops.shape[1]
  back = longest - jnp.arange(longest)
  needed = back[None] <= request.stop_length[:, None]
  same = recent[:, None, :] == request.stops[None]
  whole = (same | ~needed[None]).all(2)
  size = request.stop_length[None]
  return (whole & (size > 0) & (size <= length[:, None])).any(1)
