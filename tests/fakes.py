"""Device: a fake model whose rows depend on the whole path, and its reference.

A row is made of all tokens on the path, weighted by how far back they are and
by where they stand. Slots that nothing has been written to hold NaN, so that
attending to one shows.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from byteprob.types import Model

_SIZE = 8
_DECAY = 0.7


def init_cache(batch: int, capacity: int):
  """See `byteprob.types.InitCache`."""
  return {
    "value": jnp.full((batch, capacity, _SIZE), jnp.nan),
    "position": jnp.zeros((batch, capacity), jnp.int32),
  }


def extend(params, cache, tokens, positions, slots, mask):
  """See `byteprob.types.Extend`."""
  batch = jnp.arange(len(tokens))[:, None]
  place = 1 + 0.5 * jnp.sin(positions.astype(jnp.float32))
  value = params["embed"][tokens] * place[:, :, None]
  cache = {
    "value": cache["value"].at[batch, slots].set(value, mode="drop"),
    "position": cache["position"].at[batch, slots].set(positions, mode="drop"),
  }
  back = positions[:, :, None] - cache["position"][:, None, :]
  weight = jnp.where(mask, _DECAY ** back.astype(jnp.float32), 0.0)
  seen = jnp.where(mask[:, :, :, None], cache["value"][:, None], 0.0)
  hidden = jnp.einsum("bts,btsd->btd", weight, seen, precision="highest")
  # Padding attends to nothing; what it says must not matter.
  hidden = jnp.where(mask.any(2, keepdims=True), hidden, jnp.nan)
  logits = jnp.einsum(
    "btd,dv->btv", jnp.tanh(hidden), params["head"], precision="highest"
  )
  return logits, cache


def model(
  vocab_size: int,
  seed: int = 0,
  *,
  scale: float = 1.2,
  context_length: int = 4096,
) -> tuple[Model, Callable[[Sequence[int]], np.ndarray]]:
  """A fake model, and its rows in float64.

  Args:
    vocab_size: number of token ids.
    seed: of the parameters.
    scale: of the logits.
    context_length: see `Model`.
  """
  rng = np.random.default_rng(seed)
  embed = rng.normal(size=(vocab_size, _SIZE)).astype(np.float32)
  head = rng.normal(size=(_SIZE, vocab_size)).astype(np.float32)
  head *= np.float32(scale)

  def reference(path: Sequence[int]) -> np.ndarray:
    place = np.arange(len(path))
    weight = _DECAY ** place[::-1] * (1 + 0.5 * np.sin(place))
    hidden = weight @ embed[list(path)].astype(np.float64)
    return np.tanh(hidden) @ head.astype(np.float64)

  return (
    Model(
      init_cache=init_cache,
      extend=extend,
      params={"embed": jnp.asarray(embed), "head": jnp.asarray(head)},
      vocab_size=vocab_size,
      context_length=context_length,
    ),
    reference,
  )
