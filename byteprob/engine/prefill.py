"""Device: token ids before a text go to the cache; nobody asks for logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from byteprob.engine.config import WORD, EngineConfig
from byteprob.engine.state import MemberState, unpack
from byteprob.types import Params


def prefill(
  config: EngineConfig,
  params: Params,
  member: MemberState,
  ids: Int[Array, "B n"],
  count: Int[Array, " B"],
) -> MemberState:
  """Puts token ids before the roots of texts of which nothing has been read.

  Args:
    config: the sizes.
    params: the model's parameters.
    member: from `state.init`.
    ids: the tokens before each root, padded; no more than the cache has slots.
    count: how many there are.
  """
  size = ids.shape[1]
  rows, slots = config.chunk_rows, config.capacity
  words = slots // WORD
  bit = jnp.arange(WORD, dtype=jnp.int32)

  def before(number):
    """The packed mask of the first slots."""
    first = WORD * jnp.arange(words, dtype=jnp.int32)
    bits = (first[:, None] + bit[None])[None] < number[:, None, None]
    place = bit[None, None].astype(jnp.uint32)
    return (bits.astype(jnp.uint32) << place).sum(2, dtype=jnp.uint32)

  def body(carry):
    done, cache = carry
    at = done + jnp.arange(rows, dtype=jnp.int32)
    token = jnp.take_along_axis(ids, jnp.minimum(at, size - 1)[None], 1)
    here = at[None] < count[:, None]
    position = jnp.broadcast_to(at[None], here.shape)
    mask = unpack(before(at + 1))[None] & here[:, :, None]
    _, cache = config.extend(
      params,
      cache,
      token,
      jnp.where(here, position, 0),
      jnp.where(here, position, slots),
      mask,
    )
    return done + rows, cache

  _, cache = jax.lax.while_loop(
    lambda carry: carry[0] < count.max(), body, (jnp.int32(0), member.cache)
  )
  return member._replace(
    cache=cache,
    offset=count,
    attends=jnp.broadcast_to(before(count)[:, None], member.attends.shape),
  )
