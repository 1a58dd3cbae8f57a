"""Device: from a next-byte distribution to the next byte.

All controls act on the 257 symbols of the byte-level model. A draw is the
argmax of the controlled log-probs plus Gumbel noise that depends on the key
alone: two distributions that are close, drawn with one key, mostly agree.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Controls(NamedTuple):
  """How bytes are drawn.

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


def control(
  controls: Controls, logprobs: Float[Array, "257"]
) -> Float[Array, "257"]:
  """Scaled log-probs, not normalized, -inf for what is cut off.

  The temperature comes first; then each of top-k, top-p and min-p looks at
  what the one before has left. Of symbols that tie the lower ones stay.
  """
  scaled = logprobs / controls.temperature
  order = jnp.argsort(-scaled, stable=True)
  ranked = scaled[order]
  rank = jnp.arange(len(ranked))
  ranked = jnp.where(rank < controls.top_k, ranked, -jnp.inf)
  share = jax.nn.softmax(ranked)
  before = jnp.cumsum(share) - share
  # The first always stays.
  keep = (rank == 0) | (before < controls.top_p)
  keep &= share >= controls.min_p * share[0]
  ranked = jnp.where(keep, ranked, -jnp.inf)
  return jnp.full_like(scaled, -jnp.inf).at[order].set(ranked)


def draw(
  controls: Controls, key: jax.Array, logprobs: Float[Array, "257"]
) -> Int[Array, ""]:
  """Draws a symbol: a byte, or 256 for the end.

  Args:
    controls: how.
    key: of this step; it decides everything.
    logprobs: `float32[257]` in nats; at least one is possible.
  """
  noise = jax.random.gumbel(key, logprobs.shape)
  noisy = control(controls, logprobs) + noise
  scores = jnp.where(controls.greedy, logprobs, noisy)
  return scores.argmax().astype(jnp.int32)
