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
) -> tuple[Float[Array, "B 257"], Float[Array, "B 257"]]:
  """Lower and upper bounds of the next byte's log-prob.

  Args:
    pool: how members become one; None for one alone.
    log_weights: of the members.
    known: what each member's evaluated entries give, relative to its text.
    rest: what its other entries may add in all.

  Returns:
    The bounds, normalized by one number for each text; equal where every
    member's `rest` is -inf.
  """
  if pool is None:
    (lower,), (more,) = known, rest
    return lower, jnp.logaddexp(lower, more[:, None])
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
  low, high = jnp.stack(lows, 1), jnp.stack(highs, 1)
  if pool.grows:
    return pool.rule(low, log_weights), pool.rule(high, log_weights)
  exact = jnp.isneginf(jnp.stack(rest, 1)).all(1)[:, None]
  found = pool.rule(low, log_weights)
  return (
    jnp.where(exact, found, -jnp.inf),
    jnp.where(exact, found, jnp.inf),
  )


def _minus(values, norm):
  return jnp.where(jnp.isneginf(norm), -jnp.inf, values - norm)


def exact(
  pool: Pool | None,
  log_weights: Float[Array, "B K"],
  known: Sequence[Float[Array, "B 257"]],
) -> Float[Array, "B 257"]:
  """Next-byte log-probs where all entries are evaluated; normalized."""
  rows = pooling.tempered(pool, [normalized(one) for one in known])
  return normalized(pooling.pooled(pool, rows, log_weights))
