"""Device: how bytes are drawn, all of it data: no shape depends on it.

Warpers act on the 257 symbols of the byte-level model. A draw is the symbol at
which the distribution function passes a random number that depends on the key
alone. Where a part of the probability is still unknown, the draw is mostly
certain all the same: what is unknown moves each step of that function by no
more than itself.
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
  keep = jnp.where(before, share[None], 0.0).sum(1) < _enough(warpers)
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


def _enough(warpers: LogitWarpers) -> Float[Array, ""]:
  """The probability from which on top-p cuts; a sum may be rounded up."""
  return jnp.where(warpers.top_p < 1, warpers.top_p * (1 - 1e-6), 2.0)


def cuts(warpers: LogitWarpers) -> Bool[Array, ""]:
  """Whether the warpers cut symbols off."""
  return (warpers.top_k < 257) | (warpers.top_p < 1) | (warpers.min_p > 0)


def draw(
  warpers: LogitWarpers,
  lot: Float[Array, " B"],
  lower: Float[Array, "B A"],
  more: Float[Array, " B"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
  """Draws a symbol of each text from what is known of its distribution.

  Args:
    warpers: how.
    lot: random numbers in [0, 1); they decide everything.
    lower: lower bounds of log-probs in nats, not normalized.
    more: log of what all symbols together may have more than that; -inf where
      everything is known.

  Returns:
    The symbols (256 for the end), and whether any distribution that fits the
    bounds would give the same; trust nothing else.
  """
  top = lower.max(1)
  # Where nothing is known yet, what is not sets the scale.
  top = jnp.where(jnp.isneginf(top), more, top)
  top = jnp.where(jnp.isneginf(top), 0.0, top)
  known = jnp.exp(lower - top[:, None])
  extra = jnp.exp(more - top)
  best = known.argmax(1).astype(jnp.int32)

  def greedy():
    own = jnp.arange(lower.shape[1])[None] == best[:, None]
    second = jnp.where(own, 0.0, known).max(1)
    return best, (second + extra < known.max(1)) | (extra == 0)

  def sampled():
    scaled = jnp.exp((lower - top[:, None]) / warpers.temperature)
    # What is unknown adds most to the largest where powers are convex, and
    # spread over all symbols where they are concave.
    power = 1 / warpers.temperature
    convex = jnp.expm1(power * jnp.log1p(extra))
    concave = lower.shape[1] ** (1 - power) * extra**power
    rest = jnp.where(power >= 1, convex, concave)

    def plain():
      return scaled, rest

    def cut():
      kept, maybe = jax.vmap(lambda *one: _cut(warpers, *one))(
        known, extra, rest
      )
      high = (known + extra[:, None]) ** power
      doubt = jnp.where(maybe & (extra > 0)[:, None], high, 0.0).sum(1)
      return jnp.where(kept, scaled, 0.0), rest + doubt

    mass, rest = jax.lax.cond(cuts(warpers), cut, plain)
    return _invert(lot, mass, rest)

  return jax.lax.cond(warpers.greedy, greedy, sampled)


def _invert(lot, mass, rest):
  """The symbol at which the distribution function passes a random number.

  Args:
    lot: the random numbers.
    mass: `[B, A]` what each symbol has at least.
    rest: `[B]` what all of them may have more.
  """
  # A sum of pairs: it compiles and runs faster than a scan of 257 values.
  each = jnp.arange(mass.shape[1])
  upto = each[None] <= each[:, None]
  total = jnp.where(upto[None], mass[:, None, :], 0.0).sum(2)
  point = lot * (total[:, -1] + rest)
  passed = total > point[:, None]
  symbol = passed.argmax(1).astype(jnp.int32)
  before = jnp.where(~passed, total, 0.0).max(1)
  sure = passed.any(1) & (
    (before + rest <= point) | (rest == 0) | (symbol == 0)
  )
  # The first symbol with any mass is not passed by what stands before it.
  return symbol, sure


def _cut(warpers, known, extra, rest):
  """Which symbols surely stay, and which may, `[A]` each.

  Args:
    warpers: what cuts symbols off.
    known: `[A]` what each has at least.
    extra: `[]` what all of them may have more.
    rest: `[]` the same after the temperature.
  """
  power = 1 / warpers.temperature
  low, high = known**power, (known + extra) ** power
  surely = _before(low) & (low[None] > high[:, None])
  ahead = jnp.where(extra > 0, high[None] >= low[:, None], _before(low))
  ahead &= ~jnp.eye(len(low), dtype=bool)
  surely = jnp.where(extra > 0, surely, ahead)
  # The top-k symbols have at least this together, and at most `rest` more:
  # what stands before a symbol has a part of that.
  total = jnp.where(_before(low).sum(1) < warpers.top_k, low, 0.0).sum()
  stays = ahead.sum(1) < warpers.top_k
  before = jnp.where(ahead, low[None], 0.0).sum(1) + rest
  stays &= (before < _enough(warpers) * (total + rest)) | ~ahead.any(1)
  stays &= low >= warpers.min_p * high.max()
  goes = surely.sum(1) >= warpers.top_k
  before = jnp.where(surely, low[None], 0.0).sum(1)
  goes |= (before >= _enough(warpers) * (total + rest)) & surely.any(1)
  goes |= high < warpers.min_p * low.max()
  return stays, ~stays & ~goes


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
