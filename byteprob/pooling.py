"""Device: several models' next-byte distributions, made one.

A *rule* takes the log-probs of `K` members, `[..., K, 257]`, and the logs of
their shares, `[..., K]`, and gives log-probs `[..., 257]` that need not be
normalized. A byte that a member cannot spell is at -inf in its row, and once a
member cannot spell the text so far all of its row is:

  mixture    the shares' mean of the probabilities: such a byte has what the
             others give it; a member that is out leaves its share to them
  product    the mean of the log-probs, with the shares as weights: such a byte
             is impossible
  proxy      of base, expert and anti-expert: base, plus expert less
             anti-expert. What the base cannot spell is impossible, and what
             the expert cannot; of what the anti-expert cannot, whether the
             expert can or not, the base alone decides
  vote       each member votes with its share for its likeliest byte; those
             with the most votes have the mixture's probabilities
  rank       the shares' mean of the reciprocal ranks, normalized; a member
             gives nothing to what it cannot spell

Sources: linear and logarithmic opinion pools (Genest and Zidek 1986; the
mixture is the paper's, arXiv 2410.09303); products of experts (Hinton 2002);
proxy tuning (Liu et al. 2024, arXiv 2401.08565).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from byteprob.numerics import logsumexp, normalized

Rule = Callable[[jax.Array, jax.Array], jax.Array]

_TIE = 1e-5
"""Sums of shares that differ by less are equal."""


def mixture(
  rows: Float[Array, "... K A"], share: Float[Array, "... K"]
) -> Float[Array, "... A"]:
  """See above."""
  return logsumexp(share[..., None] + rows, -2)


def product(
  rows: Float[Array, "... K A"], share: Float[Array, "... K"]
) -> Float[Array, "... A"]:
  """See above."""
  return (jnp.exp(share)[..., None] * rows).sum(-2)


def proxy(
  rows: Float[Array, "... 3 A"], share: Float[Array, "... 3"]
) -> Float[Array, "... A"]:
  """See above."""
  base, expert, anti = jnp.moveaxis(jnp.exp(share)[..., None] * rows, -2, 0)
  return jnp.where(jnp.isneginf(anti), base, base + (expert - anti))


def vote(
  rows: Float[Array, "... K A"], share: Float[Array, "... K"]
) -> Float[Array, "... A"]:
  """See above."""
  likeliest = jax.nn.one_hot(rows.argmax(-1), rows.shape[-1])
  able = ~jnp.isneginf(rows.max(-1, keepdims=True))
  votes = jnp.where(able, jnp.exp(share)[..., None] * likeliest, 0.0).sum(-2)
  most = votes.max(-1, keepdims=True)
  return jnp.where(votes > most - _TIE, mixture(rows, share), -jnp.inf)


def rank(
  rows: Float[Array, "... K A"], share: Float[Array, "... K"]
) -> Float[Array, "... A"]:
  """See above."""
  order = jnp.argsort(-rows, axis=-1, stable=True)
  place = jnp.argsort(order, axis=-1)
  value = share[..., None] - jnp.log1p(place.astype(jnp.float32))
  return logsumexp(jnp.where(jnp.isneginf(rows), -jnp.inf, value), -2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
  """How members' distributions become one.

  Attributes:
    rule: see above.
    follows: a member's share grows with the probability that it gives to the
      text: the shares are the posterior of a Bayesian mixture, which is the
      mixture of the members' laws of whole texts.
    temperatures: the members' log-probs are divided by them, and normalized.
  """

  rule: Rule
  follows: bool
  temperatures: tuple[float, ...]

  @property
  def grows(self) -> bool:
    """Whether the rule's result grows with each member's probabilities."""
    return self.rule in (mixture, product)


def apply_temperature(
  pool: Pool | None, rows: Sequence[Float[Array, "... 257"]]
) -> Float[Array, "... K 257"] | Float[Array, "... 257"]:
  """Members' rows, each at its temperature; without a pool, the only one's."""
  if pool is None:
    (row,) = rows
    return row
  return jnp.stack(
    [
      row if temperature == 1 else normalized(row / temperature)
      for row, temperature in zip(rows, pool.temperatures, strict=True)
    ],
    -2,
  )


def combine(
  pool: Pool | None,
  rows: Float[Array, "... K 257"] | Float[Array, "... 257"],
  share: Float[Array, "... K"],
) -> Float[Array, "... 257"]:
  """The log-probs of members together; all -inf where nothing is possible.

  Args:
    pool: how; None for one alone.
    rows: from `apply_temperature`.
    share: logs of the members' shares.
  """
  return rows if pool is None else normalized(pool.rule(rows, share))


def shares(
  pool: Pool | None,
  share: Float[Array, "B K"],
  rows: Float[Array, "B n K 257"] | Float[Array, "B n 257"],
  byte: Int[Array, "B n"],
) -> Float[Array, "B m K"]:
  """Logs of the members' shares before each of some bytes, and after them.

  Args:
    pool: how; None for one alone.
    share: before the first.
    rows: from `apply_temperature`, of each byte.
    byte: the bytes; 256 for the text's end.
  """
  if pool is None or not pool.follows:
    steps = byte.shape[1] + 1
    return jnp.broadcast_to(share[:, None], (len(share), steps, share.shape[1]))
  taken = jnp.take_along_axis(rows, byte[:, :, None, None], axis=3)[..., 0]
  # What all share would only cost digits.
  most = taken.max(2, keepdims=True)
  grown = jnp.cumsum(taken - jnp.where(jnp.isneginf(most), 0.0, most), axis=1)
  grown = jnp.concatenate([jnp.zeros_like(share)[:, None], grown], axis=1)
  return normalized(share[:, None] + grown)
