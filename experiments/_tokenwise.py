"""Host: what a model says when it is prompted with tokens, as is usual.

The prompt is encoded, the model is run on its tokens, and the next byte is
the first byte of the next token. That is biased wherever the tokenizer would
not have ended a token at the prompt's end: here it is what the exact
distribution is compared with.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob import lm as lm_lib
from byteprob.errors import PromptError
from byteprob.plan import round_up_to_bucket
from byteprob.tokenization import Tables, spell_all
from byteprob.types import EOS


def spelling(tables: Tables) -> dict[int, bytes]:
  """The bytes of tokens by their model ids, but of those that spell none."""
  ids = np.asarray(tables.token_id).tolist()
  return dict(zip(ids, spell_all(tables), strict=True))


@functools.partial(jax.jit, static_argnums=0, donate_argnames="cache")
def _extend(extend, params, cache, tokens, first, count):
  """Logits after `count` tokens that go behind `first` others: `[V]`."""
  slots = cache["positions"].shape[1]
  row = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  position = (first + row)[None]
  slot = jnp.where(row < count, first + row, slots)[None]
  attends = jnp.arange(slots)[None, None] <= position[:, :, None]
  logits, cache = extend(params, cache, tokens, position, slot, attends)
  return logits[0, count - 1].astype(jnp.float32), cache


@functools.partial(jax.jit, static_argnums=0, donate_argnames="cache")
def _scored(extend, params, cache, tokens, first, following):
  """Log-probs of the tokens that follow each of some rows: `[T]`."""
  slots = cache["positions"].shape[1]
  position = (first + jnp.arange(tokens.shape[1], dtype=jnp.int32))[None]
  attends = jnp.arange(slots)[None, None] <= position[:, :, None]
  logits, cache = extend(params, cache, tokens, position, position, attends)
  logs = jax.nn.log_softmax(logits[0].astype(jnp.float32))
  return jnp.take_along_axis(logs, following[:, None], axis=1)[:, 0], cache


ROWS = 256
"""Of one model call."""


def logprobs(
  lm: lm_lib.ByteLM, ids: Sequence[int]
) -> Float[np.ndarray, " T-1"]:
  """Log-prob of each token after the first, given those before: nats.

  Raises:
    PromptError: there are more tokens than the model's context has.
  """
  count = len(ids) - 1
  if len(ids) > lm.model.context_length:
    raise PromptError(
      f"The text has {len(ids)} tokens and the model's context"
      f" {lm.model.context_length}; shorten it."
    )
  size = min(round_up_to_bucket(max(count, 1)), ROWS)
  calls = -(-count // size)
  # A power of two of calls' room, so that few shapes are compiled.
  room = size << max(calls - 1, 0).bit_length()
  padded = np.zeros(room + 1, np.int32)
  padded[: len(ids)] = ids
  cache = lm.model.init_cache(1, room)
  found = []
  for first in range(0, count, size):
    part = padded[first : first + size + 1]
    values, cache = _scored(
      lm.model.extend,
      lm.model.params,
      cache,
      part[None, :-1],
      np.int32(first),
      part[1:],
    )
    found.append(np.asarray(values))
  return np.concatenate([np.zeros(0, np.float32), *found])[:count]


class TokenPrompted:
  """A model after a prompt's tokens.

  Attributes:
    ids: the prompt's tokens.
  """

  def __init__(self, lm: lm_lib.ByteLM, ids: Sequence[int], room: int):
    """Runs the model on a prompt.

    Args:
      lm: the model and its tokenizer.
      ids: token ids, those that the tokenizer starts with included.
      room: how many tokens `greedy` may add.
    """
    self.ids = tuple(ids)
    self._lm = lm
    self._spelling = spelling(lm.tables)
    self._ends = set(np.asarray(lm.tables.end_ids).tolist())
    most = lm.model.context_length
    self._slots = min(round_up_to_bucket(len(self.ids) + room), most)
    self._cache = lm.model.init_cache(1, self._slots)
    size = min(round_up_to_bucket(len(self.ids)), self._slots)
    self._logits = self._call(self.ids, 0, size)

  def _call(self, ids, first, size):
    tokens = np.zeros((1, size), np.int32)
    tokens[0, : len(ids)] = ids
    model = self._lm.model
    logits, self._cache = _extend(
      model.extend,
      model.params,
      self._cache,
      tokens,
      np.int32(first),
      np.int32(len(ids)),
    )
    return np.asarray(logits, np.float64)

  def next_byte(self) -> Float[np.ndarray, "257"]:
    """Probabilities of the next token's first byte; 256: the end.

    They add up to less than 1 by what special tokens get.
    """
    logits = self._logits
    share = np.exp(logits - logits.max())
    share /= share.sum()
    first = [spelled[0] for spelled in self._spelling.values()]
    found = np.bincount(first, share[list(self._spelling)], minlength=257)
    found[EOS] = sum(share[sorted(self._ends)])
    return found

  def greedy(self, max_bytes: int) -> list[bytes]:
    """The most probable token, again and again.

    Ends where `max_bytes` are reached, the text ends, a special token comes,
    or the room is used up.
    """
    found: list[bytes] = []
    logits, used = self._logits, len(self.ids)
    while sum(map(len, found)) < max_bytes:
      token = int(logits.argmax())
      spelled = self._spelling.get(token)
      if token in self._ends or spelled is None:
        break
      found.append(spelled)
      if used == self._slots:
        break
      logits = self._call((token,), used, 1)
      used += 1
    return found

  def spelled(self, ids: Sequence[int]) -> list[bytes]:
    """The bytes of tokens, without those that spell nothing."""
    return [self._spelling[token] for token in ids if token in self._spelling]
