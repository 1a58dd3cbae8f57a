"""Device: the words that every module shares, and the model as functions.

Letters in shapes, here and everywhere:

  B  batch            T  new rows of one model call   S  cache capacity (slots)
  V  tokens in a model's output                       Y  sorted vocabulary
  N  nodes            W  live starts                  H  state hypotheses
  n  bytes of a text  257  the 256 bytes and EOS

Probabilities are natural logarithms (nats), float32, with true -inf for what
is impossible.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

EOS = 256
"""Index of the end of the text in the byte-level alphabet of 257 symbols."""

Params = Any
"""A pytree of a model's parameters."""

Cache = Any
"""A pytree of keys and values; every leaf has leading axes `[B, S]`."""

InitCache = Callable[[int, int], Cache]
"""`init_cache(batch, capacity)`: an empty cache of `capacity` slots a row."""

Extend = Callable[..., tuple[jax.Array, Cache]]
"""`extend(params, cache, tokens, positions, slots, mask)`: one model call.

Args:
  params: the parameters.
  cache: as `init_cache` made it, or an earlier call returned it.
  tokens: `int32[B, T]` token ids of the new rows.
  positions: `int32[B, T]` number of rows before each on its own path (a
    child's position is its parent's plus one, whatever its slot).
  slots: `int32[B, T]` where in the cache each new row's keys and values go;
    `S` or more means nowhere (padding).
  mask: `bool[B, T, S]` which slots each new row attends to, after all new
    rows are written: its ancestors' and its own.

Returns:
  `float32[B, T, V]` logits, and the new cache.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A token-level language model, as the pure functions that we need of it.

  Attributes:
    init_cache: see `InitCache`.
    extend: see `Extend`.
    params: the parameters that `extend` takes.
    vocab_size: `V`, the length of a row of logits.
    context_length: the largest number of rows on one path.
  """

  init_cache: InitCache
  extend: Extend
  params: Params
  vocab_size: int
  context_length: int
