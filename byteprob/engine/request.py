"""Device: how bytes are drawn, all of it data: no shape depends on it.

Warpers act on the 257 symbols of the byte-level model. A draw is the symbol at
which the distribution function passes a random number that depends on the key
alone. Where a part of the probability is still unknown, the draw is mostly
certain all the same: what is unknown moves each step of that function by no
more than itself.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import constraints
from byteprob.constraints import Constraint

_TIE = 4e-6
"""Two probabilities are told apart if they differ by this share."""


class LogitWarpers(NamedTuple):
  """Logits warpers: how log-probs are changed before a draw.

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
  """Settings of drawing that all texts of a batch share.

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
  some = (warpers.top_k < 257) | (warpers.top_p < 1) | (warpers.min_p > 0)
  return some | warpers.greedy


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
  power = jnp.where(warpers.greedy, 1.0, 1 / warpers.temperature)
  scaled = known**power
  # What is unknown adds most to the largest where powers are convex, and
  # spread over all symbols where they are concave.
  convex = jnp.expm1(power * jnp.log1p(extra))
  concave = lower.shape[1] ** (1 - power) * extra**power
  rest = jnp.where(power >= 1, convex, concave)

  def plain():
    return scaled, rest

  def cut():
    # Logs are rounded: what may be a tie is one.
    high = (known + extra[:, None]) * (1 + _TIE)
    high = jnp.where(extra[:, None] > 0, high**power, scaled)
    return jax.vmap(functools.partial(_cut, warpers))(scaled, high, rest)

  return _invert(lot, *jax.lax.cond(cuts(warpers), cut, plain))


def _invert(lot, mass, rest):
  """The symbol at which the distribution function passes a random number.

  Args:
    lot: the random numbers.
    mass: `[B, A]` what each symbol has at least.
    rest: `[B]` what all of them may have more.
  """
  # A product compiles and runs faster than a scan of 257 values.
  size = mass.shape[1]
  total = _product(mass, jnp.triu(jnp.ones((size, size))))
  point = lot * (total[:, -1] + rest)
  passed = (total > point[:, None]) & (mass > 0)
  symbol = passed.argmax(1).astype(jnp.int32)
  each = jnp.arange(size)[None]
  before = jnp.where(each < symbol[:, None], total, 0.0).max(1)
  sure = passed.any(1) & (
    (before + rest <= point) | (rest == 0) | (symbol == 0)
  )
  # The first symbol with any mass is not passed by what stands before it.
  return symbol, sure


def _product(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _cut(warpers, low, high, rest):
  """Bounds of the symbols' masses after top-k, top-p and min-p.

  Args:
    warpers: the warpers.
    low: `[A]` lower bound of each symbol's mass.
    high: `[A]` upper bound of each.
    rest: `[]` most mass that all of them together may have beyond `low`.

  Returns:
    `[A]` the new lower bounds, 0 where a symbol may be cut off; and `[]` the
    new `rest`.
  """
  top_k = jnp.where(warpers.greedy, 1, warpers.top_k)
  known = (low == high).all()
  order = _before(low)
  # Symbols that may, and those that surely do, come before each.
  may = jnp.where(known, order, high[None] >= low[:, None])
  may &= ~jnp.eye(len(low), dtype=bool)
  does = order & (known | (low[None] > high[:, None]))
  each = jnp.stack([jnp.ones_like(low), low], 1)
  sums = _product(jnp.stack([order, may, does]).astype(low.dtype), each)
  (rank, _), (most, before), (least, surely) = jnp.moveaxis(sums, 2, 1)
  # The top-k symbols have at least this together, and at most `rest` more:
  # what stands before a symbol has a part of that.
  total = jnp.where(rank < top_k, low, 0.0).sum()
  enough = _enough(warpers) * (total + rest)
  stays = (most < top_k) & ((before + rest < enough) | (most == 0))
  stays &= low >= warpers.min_p * high.max()
  goes = (least >= top_k) | ((surely >= enough) & (least > 0))
  goes |= high < warpers.min_p * low.max()
  doubt = jnp.where(stays | goes | known, 0.0, high).sum()
  # One alone is drawn, whatever it has.
  alone = ((stays | ~goes).sum() == 1) & stays.any()
  return jnp.where(stays, low, 0.0), jnp.where(alone, 0.0, rest + doubt)


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
