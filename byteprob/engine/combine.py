"""Device: bounds of several models' next-byte distributions, made one.

Each member gives the log-probs that its evaluated entries know of, and the log
of what the others may add. A rule that grows with each member's probabilities
gives bounds of the whole from bounds of these; where one does not, nothing is
known until all entries are evaluated.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from byteprob import pooling
from byteprob.numerics import logsumexp, normalized
from byteprob.pooling import Pool


def bounds(
  pool: Pool | None,
  log_weights: Float[Array, "B K"],
  known: Sequence[Float[Array, "B 257"]],
  rest: Sequence[Float[Array, " B"]],
) -> tuple[Float[Array, "B 257"], Float[Array, " B"]]:
  """Lower bounds of the next byte's log-prob, and what all bytes lack of it.

  Args:
    pool: how members become one; None for one alone.
    log_weights: of the members.
    known: what each member's evaluated entries give, relative to its text.
    rest: what its other entries may add in all.

  Returns:
    The bounds, not normalized, and the log of what the bytes may have more in
    all: -inf where every member's `rest` is.
  """
  if pool is None:
    (lower,), (more,) = known, rest
    return lower, more
  lows, highs = [], []
  for lower, more, temperature in zip(
    known, rest, pool.temperatures, strict=True
  ):
    upper = jnp.logaddexp(lower, more[:, None])
    if temperature == 1:
      # What is not known raises the sum as much as it may raise a byte.
      norm = jnp.logaddexp(logsumexp(lower, 1), more)[:, None]
      norms = norm, norm
    else:
      lower, upper = lower / temperature, upper / temperature
      norms = logsumexp(upper, 1)[:, None], logsumexp(lower, 1)[:, None]
    lows.append(_minus(lower, norms[0]))
    highs.append(_minus(upper, norms[1]))
  low = pool.rule(jnp.stack(lows, 1), log_weights)
  ready = jnp.isneginf(jnp.stack(rest, 1)).all(1)
  if pool.rule is pooling.mixture and set(pool.temperatures) == {1.0}:
    # The members' shares of what is not known add up.
    part = jnp.stack(
      [
        more - jnp.logaddexp(logsumexp(lower, 1), more)
        for lower, more in zip(known, rest, strict=True)
      ],
      1,
    )
    part = jnp.where(jnp.isneginf(jnp.stack(rest, 1)), -jnp.inf, part)
    lack = logsumexp(log_weights + part, 1)
  elif pool.grows:
    high = pool.rule(jnp.stack(highs, 1), log_weights)
    gap = jnp.where(high > low, jnp.exp(high) - jnp.exp(low), 0.0)
    lack = jnp.log(gap.sum(1))
  else:
    lack = jnp.full(ready.shape, jnp.inf)
    low = jnp.where(ready[:, None], low, -jnp.inf)
  return low, jnp.where(ready, -jnp.inf, lack)


def _minus(values, norm):
  return jnp.where(jnp.isneginf(norm), -jnp.inf, values - norm)


def exact(
  pool: Pool | None,
  log_weights: Float[Array, "B K"],
  known: Sequence[Float[Array, "B 257"]],
) -> Float[Array, "B 257"]:
  """Next-byte log-probs where all entries are evaluated; normalized."""
  rows = pooling.apply_temperature(pool, [normalized(one) for one in known])
  return normalized(pooling.combine(pool, rows, log_weights))
