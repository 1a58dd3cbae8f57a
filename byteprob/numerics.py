"""Device: sums of probabilities that are kept as logarithms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def logsumexp(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
  """Log of the sum of exponentials; -inf where all are -inf, or none are."""
  if not values.shape[axis]:
    shape = list(values.shape)
    del shape[axis]
    return jnp.full(shape, -jnp.inf, values.dtype)
  top = jax.lax.stop_gradient(values.max(axis))
  none = jnp.isneginf(top)
  safe = jnp.where(none, 0, top)
  total = jnp.exp(values - jnp.expand_dims(safe, axis)).sum(axis)
  # The logarithm never meets 0, whose gradient would be no number.
  total = jnp.where(none, 1, total)
  return jnp.where(none, -jnp.inf, safe + jnp.log(total))


@jax.custom_jvp
def logaddexp(a: Float[Array, "..."], b: Float[Array, "..."]):
  """Log of the sum of two exponentials; its gradient is always a number."""
  return jnp.logaddexp(a, b)


@logaddexp.defjvp
def _logaddexp_jvp(primals, tangents):
  out = logaddexp(*primals)
  none = jnp.isneginf(out)

  def share(value):
    # The difference of two infinities would be no number.
    return jnp.where(none, 0.0, jnp.exp(value - jnp.where(none, 0.0, out)))

  return out, sum(
    share(value) * tangent
    for value, tangent in zip(primals, tangents, strict=True)
  )


def normalized(values: Float[Array, "... A"]) -> Float[Array, "... A"]:
  """Log-probs that add up to 1 along the last axis; -inf where all are."""
  norm = logsumexp(values, -1)[..., None]
  return jnp.where(jnp.isneginf(norm), -jnp.inf, values - norm)


def add_exactly(
  pair: Float[Array, "2"], value: Float[Array, ""]
) -> Float[Array, "2"]:
  """Adds to a sum kept as two floats: the sum, and what rounding lost."""
  high = pair[0] + value
  back = high - pair[0]
  lost = (pair[0] - (high - back)) + (value - back)
  lost = jnp.where(jnp.isneginf(high), 0.0, lost)
  return jnp.stack([high, pair[1] + lost])
