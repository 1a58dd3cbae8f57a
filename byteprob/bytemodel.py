"""Host: what every language model over bytes can do."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob import constraints, sampling
from byteprob.constraints import Constraint
from byteprob.pooling import Pool
from byteprob.prompt import Context

Draft = Literal["rows", "look_up"] | Any
"""A source of drafts by its name, or a `ByteModel`."""


class ByteModel(abc.ABC):
  """A language model over bytes: one model, or several together.

  The alphabet is the 256 bytes and, at index 256, the end of the text.
  """

  # How what several models say becomes one.
  _pool: Pool | None = None

  def next_byte_logprobs(
    self, context: Context = b""
  ) -> Float[np.ndarray, "257"]:
    """Log-probs of the byte after a context, and of the text's end there.

    Args:
      context: bytes, a str (taken as UTF-8), or a list that mixes them with
        token ids. It may end anywhere, inside a token or a character too.

    Returns:
      `float32[257]` in nats; index 256 is the end of the text.

    Raises:
      PromptError: the context cannot be expressed in the model's tokens.
    """
    return self.next_byte_logprobs_batch([context])[0]

  @abc.abstractmethod
  def next_byte_logprobs_batch(
    self, contexts: Sequence[Context]
  ) -> list[Float[np.ndarray, "257"]]:
    """`next_byte_logprobs` of many contexts, side by side."""

  def byte_logprobs(
    self, text: Context, context: Context = b""
  ) -> Float[np.ndarray, " n"]:
    """Log-prob of each byte of a text, given the context and those before.

    Args:
      text: what to score; if it holds token ids, they are conditioned on.
      context: what comes before it.

    Returns:
      `float32[n]` in nats, one for each byte of the text as the tokenizer
      normalizes it (which warns if that changes it). The context may end
      anywhere; the chain rule holds across that point.

    Raises:
      PromptError: the text cannot be expressed in the model's tokens, or is
        longer than the model's context.
    """
    return self.byte_logprobs_batch([text], [context])[0]

  @abc.abstractmethod
  def byte_logprobs_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
  ) -> list[Float[np.ndarray, " n"]]:
    """`byte_logprobs` of many texts, side by side."""

  def next_byte_logprobs_along(
    self, text: Context, context: Context = b""
  ) -> Float[np.ndarray, "m 257"]:
    """`next_byte_logprobs` after a context and after each byte of a text.

    Args:
      text: bytes or a str, of `n` bytes.
      context: what comes before it.

    Returns:
      `float32[n + 1, 257]` in nats, from one pass over the text. Row `k` is
      what follows the context and `k` bytes of the text; it is -inf all
      through where they have probability 0.

    Raises:
      PromptError: the text cannot be expressed in the model's tokens, or is
        longer than the model's context.
    """
    return self.next_byte_logprobs_along_batch([text], [context])[0]

  @abc.abstractmethod
  def next_byte_logprobs_along_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
  ) -> list[Float[np.ndarray, "m 257"]]:
    """`next_byte_logprobs_along` of many texts, side by side."""

  def sample(
    self,
    contexts: Sequence[Context],
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: str | Constraint | None = None,
    draft: Draft = "rows",
    **settings: Any,
  ) -> list[sampling.Sample]:
    """Draws a text after each context, byte by byte, exactly.

    Args:
      contexts: see `next_byte_logprobs`; they may end anywhere.
      key: from `jax.random.key`; text `k` uses `fold_in(key, k)`, so that it
        does not depend on the others. Or `key[B]`, one key for each text.
      max_bytes: bytes of each text at most.
      constraint: a regular expression that the texts must match, or what
        `constraints.compile_regex` made of one: what it forbids is never
        drawn. The contexts do not count.
      draft: where bytes are guessed that a model call then confirms: "rows",
        what is known already; "look_up", also what followed the last bytes
        before; or a smaller model over bytes, with any tokenizer. The texts
        are the same, the number of model calls is not.
      **settings: temperature, top_p and others; see `sampling.Settings`.

    Raises:
      PromptError: a context cannot be expressed in the model's tokens, or is
        longer than the model's context.
      ConstraintError: the regular expression is not one, or matches nothing.
      ValueError: a setting makes no sense.
    """
    if not contexts:
      sampling.Settings(max_bytes=max_bytes, **settings)
      return []
    sampler = self.sampler(
      contexts, key, max_bytes, constraint=constraint, draft=draft, **settings
    )
    sampler.step()
    return sampler.samples()

  def stream(
    self, context: Context, key: jax.Array, max_bytes: int, **rest: Any
  ) -> Iterator[bytes]:
    """`sample` for one context; yields bytes as they are drawn.

    The context and the settings are checked at once.
    """
    return _stream(self.sampler([context], key, max_bytes, **rest))

  def sampler(
    self,
    contexts: Sequence[Context],
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: str | Constraint | None = None,
    draft: Draft = "rows",
    **settings: Any,
  ) -> sampling.Sampler:
    """What `sample` does, to be done step by step.

    Its `step` goes on with all texts, its `samples` are the texts so far.
    """
    # A guess that goes past the next token's end needs room.
    wide = {} if draft == "rows" else {"ahead": 24, "rows": 16}
    wanted = sampling.Settings(max_bytes=max_bytes, **(wide | settings))
    if isinstance(constraint, str):
      constraint = constraints.compile_regex(constraint)
    return sampling.Sampler(
      self._readers(contexts, key),
      wanted,
      pool=self._pool,
      share=self._shares(contexts),
      constraint=constraint,
      drafts=_drafts(draft, contexts, key, wanted),
    )

  @abc.abstractmethod
  def _readers(
    self, contexts: Sequence[Context], key: jax.Array
  ) -> list[sampling.Reader]:
    """What reads contexts for the sampler: itself, or its members."""

  def _shares(
    self, contexts: Sequence[Context]
  ) -> Float[np.ndarray, "B K"] | None:
    """Logs of the members' shares after contexts."""
    del contexts
    return None


def _drafts(draft, contexts, key, settings) -> sampling.Drafts | None:
  """The source that a user names."""
  if draft == "rows":
    return None
  if draft == "look_up":
    return sampling.Drafts(sampling.LookUp(), None, None)
  if not isinstance(draft, ByteModel):
    raise ValueError(
      f"draft must be 'rows', 'look_up' or a ByteLM, not {draft!r}"
    )
  # It runs ahead of the text, and leaves out what hardly matters.
  ahead = dataclasses.replace(
    settings,
    max_bytes=settings.max_bytes + 2 * settings.ahead,
    eps=sampling.TRIFLE,
    ahead=12,
    rows=8,
  )
  small = draft.sampler(
    contexts, key, **{f.name: getattr(ahead, f.name) for f in _FIELDS}
  )
  source = sampling.Smaller(small.setup)
  return sampling.Drafts(source, (small.tables, small.params), small.state)


_FIELDS = dataclasses.fields(sampling.Settings)


def keys_of(key: jax.Array, count: int) -> jax.Array:
  """The random key of each of some texts, `key[count]`.

  Args:
    key: one key, of which text `k` has `fold_in(key, k)`; or one for each.
    count: number of texts.

  Raises:
    ValueError: it is no key of `jax.random.key`, or there are too few or too
      many.
  """
  if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise ValueError("take the key from jax.random.key, not PRNGKey")
  if not key.ndim:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
  if key.shape != (count,):
    raise ValueError(
      f"give one key, or one for each text: {count}, not {key.shape}"
    )
  return key


def _stream(sampler: sampling.Sampler) -> Iterator[bytes]:
  seen, going = 0, True
  while going:
    going = sampler.step(rounds=1)
    (sample,) = sampler.samples()
    if len(sample.text) > seen:
      yield sample.text[seen:]
      seen = len(sample.text)
