"""Host: what every language model over bytes can do."""

import abc
import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from byteprob import arguments, sampling, windows
from byteprob.constraints import Constraint
from byteprob.engine.batch import Batch, Drawn
from byteprob.engine.generate import ENDED
from byteprob.prompt import Context
from byteprob.session import Session, Sessions, joined
from byteprob.types import EOS


class ByteModel(abc.ABC):
  """A language model over bytes: one model, or several together.

  The alphabet is the 256 bytes and, at index 256, the end of the text.
  """

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
    self,
    text: Context,
    context: Context = b"",
    *,
    window: int | None = None,
    stride: int | None = None,
    eps: float = 0.0,
  ) -> Float[np.ndarray, " n"]:
    """Log-prob of each byte of a text, given the context and those before.

    Args:
      text: what to score; if it holds token ids, they are conditioned on.
      context: what comes before it.
      window: score a text of any length in parts of so many bytes, read apart:
        a byte is then given only the bytes before it in its part. Text and
        context must be bytes or str. A window of no more bytes than the
        model's context has tokens always fits.
      stride: bytes that are scored of each part; the rest is context. Half of
        the window by default.
      eps: leave out token sequences that carry less than this share of the
        text's probability, if they do not lead to its end: faster. The sum of
        the log-probs stays exact, and up to each byte it is a lower bound. Of
        single models.

    Returns:
      `float32[n]` in nats, one for each byte of the text as the tokenizer
      normalizes it (which warns if that changes it). The context may end
      anywhere; the chain rule holds across that point.

    Raises:
      PromptError: the text cannot be expressed in the model's tokens, or is
        longer than the model's context.
      ValueError: window or stride makes no sense.
    """
    asked, contexts = self._parts(text, context, window, stride)
    found = self.byte_logprobs_batch(asked, contexts, eps=eps)
    return np.concatenate([np.zeros(0, np.float32), *found])

  @staticmethod
  def _parts(text, context, window, stride):
    """Splits a text into parts to score, each with its context."""
    if window is None:
      if stride is not None:
        raise ValueError("stride is of a window: give window, too")
      return [text], [context]
    before = arguments.text(context, "context")
    whole = before + arguments.text(text)
    asked, contexts = [], []
    for part in windows.parts(whole, window, stride):
      if part.stop > len(before):
        first = max(part.first, len(before))
        contexts.append(whole[part.start : first])
        asked.append(whole[first : part.stop])
    return asked, contexts

  @abc.abstractmethod
  def byte_logprobs_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
    *,
    eps: float = 0.0,
  ) -> list[Float[np.ndarray, " n"]]:
    """`byte_logprobs` of many texts, side by side."""

  def logprob(
    self,
    text: Context,
    context: Context = b"",
    *,
    window: int | None = None,
    stride: int | None = None,
  ) -> float:
    """Log-prob of a whole text given a context, in nats.

    The sum of `byte_logprobs`, whose arguments these are, but several times as
    fast: only the token sequences that lead to the text's end are evaluated.
    """
    asked, contexts = self._parts(text, context, window, stride)
    return math.fsum(self.logprob_batch(asked, contexts))

  @abc.abstractmethod
  def logprob_batch(
    self,
    texts: Sequence[Context],
    contexts: Sequence[Context] | None = None,
  ) -> list[float]:
    """`logprob` of many texts, side by side."""

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

  @arguments.named(sampling.SamplingParams)
  def sample(
    self,
    contexts: Sequence[Context],
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: str | re.Pattern[str] | Constraint | None = None,
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
      temperature: log-probs are divided by it; above 0.
      top_k: only the most probable so many bytes; 0 for all.
      top_p: only the fewest bytes with this probability together.
      min_p: only bytes with at least this share of the largest probability.
      greedy: always the most probable byte.
      stop: a string, or several, after which a text stops; it stays in it.
      eps, exact: see `sampling.SamplingParams`.

    Raises:
      PromptError: a context cannot be expressed in the model's tokens, or is
        longer than the model's context.
      ConstraintError: the regular expression is not one, or matches nothing.
      ValueError: a setting makes no sense.
    """
    contexts = arguments.texts(contexts)
    if not contexts:
      sampling.sampling_params(max_bytes, settings)
      return []
    sampler = self.sampler(
      contexts, key, max_bytes, constraint=constraint, **settings
    )
    sampler.step()
    return sampler.samples()

  @arguments.named(sampling.SamplingParams)
  def stream(
    self,
    context: Context,
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: str | re.Pattern[str] | Constraint | None = None,
    **settings: Any,
  ) -> Iterator[bytes]:
    """`sample` for one context; yields bytes as they are drawn.

    The context and the settings are checked at once.
    """
    return _stream(
      self.sampler([context], key, max_bytes, constraint=constraint, **settings)
    )

  @arguments.named(sampling.SamplingParams)
  def sampler(
    self,
    contexts: Sequence[Context],
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: str | re.Pattern[str] | Constraint | None = None,
    **settings: Any,
  ) -> sampling.Sampler:
    """Makes a `Sampler`, which draws as `sample` does, but step by step.

    `Sampler.step` continues all texts. `Sampler.samples` returns the texts so
    far.
    """
    contexts = arguments.texts(contexts)
    wanted = sampling.sampling_params(max_bytes, settings)
    allowed = arguments.constraint(constraint)
    keys = arguments.keys(key, len(contexts))
    batch = self._batch(contexts, keys=keys, more=wanted.max_bytes)
    return sampling.Sampler(
      batch,
      wanted,
      constraint=allowed,
      score=functools.partial(self._score_drawn, contexts),
    )

  def session(self, context: Context = b"", *, pinned: bool = False) -> Session:
    """A text to go on with, a few bytes at a time.

    Args:
      context: what it begins with; see `next_byte_logprobs`.
      pinned: one numerical path: the text is read byte by byte, so that its
        log-probs are the same bits whatever pieces it comes in. Reading is
        slower; entropy coders need it.

    Raises:
      PromptError: the context cannot be expressed in the model's tokens, or
        is longer than the model's context.
    """
    return Session(self.sessions([context], pinned=pinned))

  def sessions(
    self, contexts: Sequence[Context], *, pinned: bool = False
  ) -> Sessions:
    """`session` for many texts, side by side."""
    return Sessions(self, arguments.texts(contexts), pinned=pinned)

  @abc.abstractmethod
  def _batch(
    self,
    contexts: Sequence[Context],
    *,
    keys: jax.Array | None = None,
    more: int = 0,
    entries: bool = False,
    pinned: bool = False,
  ) -> Batch:
    """Texts under way; see `engine.Batch`."""

  @abc.abstractmethod
  def _continues(self, texts: Sequence[bytes], more: Sequence[bytes]) -> bool:
    """Whether the tokenizer leaves texts as they are when bytes follow.

    Raises:
      PromptError: the bytes cannot follow.
    """

  def _score_drawn(
    self, contexts: Sequence[Context], drawn: Sequence[Drawn]
  ) -> list[Float[np.ndarray, " n"]]:
    """Log-probs of bytes that were drawn after contexts, and of ends."""
    found = self.byte_logprobs_batch([one.text for one in drawn], contexts)
    over = [k for k, one in enumerate(drawn) if one.status == ENDED]
    if over:
      ends = self.next_byte_logprobs_batch(
        [joined(contexts[k], drawn[k].text) for k in over]
      )
      for k, row in zip(over, ends, strict=True):
        found[k] = np.append(found[k], row[EOS])
    return found


def _stream(sampler: sampling.Sampler) -> Iterator[bytes]:
  seen, going = 0, True
  while going:
    going = sampler.step(rounds=1)
    (sample,) = sampler.samples()
    if len(sample.text) > seen:
      yield sample.text[seen:]
      seen = len(sample.text)
