"""Device: what a text lacks, as flags that travel with its state."""

import enum

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Needs(enum.IntFlag):
  """Unmet needs of a text; it stands still until they are met.

  Attributes:
    SLOTS: slots of the cache (`EngineConfig.capacity`).
    FRONTIER: frontier entries (`max_frontier`); the byte was not read.
    NODES: model calls of a step (`max_new_nodes`); the byte was read.
    CONTEXT: the model's context is full; nothing helps.
    BYTES: `read` has left bytes, as another text lacks something, or as the
      new nodes of a chunk were too many (`chunk_nodes`).
    NUMBERS: the model's logits are not numbers; nothing helps.
  """

  SLOTS = 1
  FRONTIER = 2
  NODES = 4
  CONTEXT = 8
  BYTES = 16
  NUMBERS = 32


def flag(some: Bool[Array, "..."], need: Needs) -> Int[Array, "..."]:
  """The flag where it is so, else 0."""
  return jnp.where(some, jnp.int32(need), 0)
