"""Host: texts that are kept, to be gone on with a few bytes at a time.

A push costs what the new bytes cost: what has been read is not read again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from byteprob import arguments, prompt, sampling
from byteprob.engine.batch import Batch
from byteprob.errors import PromptError
from byteprob.prompt import Context, Text

if TYPE_CHECKING:
  from byteprob.bytemodel import ByteModel


class Sessions:
  """Texts side by side, each after a context of its own."""

  def __init__(
    self,
    model: "ByteModel",
    contexts: Sequence[Context],
    *,
    pinned: bool = False,
  ):
    """Reads the contexts; see `ByteModel.sessions`."""
    self._model, self._contexts = model, list(contexts)
    self._pinned = pinned
    self._pushed = [b""] * len(self._contexts)
    self._batch = self._begin()
    self._logprobs: np.ndarray | None = None

  def _begin(self) -> Batch:
    contexts = [
      joined(context, text)
      for context, text in zip(self._contexts, self._pushed, strict=True)
    ]
    return self._model._batch(contexts, entries=True, pinned=self._pinned)

  @property
  def texts(self) -> list[bytes]:
    """The texts since the last token ids of their contexts."""
    return [
      tail(context) + text
      for context, text in zip(self._contexts, self._pushed, strict=True)
    ]

  @property
  def logprobs(self) -> Float[np.ndarray, "B 257"]:
    """Log-probs of each text's next byte, and of its end at 256, in nats."""
    if self._logprobs is None:
      self._logprobs = self._batch.logprobs()
    return self._logprobs

  def push(self, texts: Sequence[Text]) -> "Sessions":
    """Goes on with bytes after each text; none where they are empty.

    Raises:
      PromptError: a text cannot go on so, or would be longer than a model's
        context; then nothing is pushed.
    """
    more = [arguments.text(text) for text in arguments.texts(texts, "texts")]
    if len(more) != len(self._contexts):
      raise ValueError(
        f"give one text for each of the {len(self._contexts)} of the session,"
        f" not {len(more)}"
      )
    before, pushed, batch = self.texts, self._pushed, self._batch
    self._pushed = [old + new for old, new in zip(pushed, more, strict=True)]
    try:
      if all(before) and self._model._continues(before, more):
        # What fails half way leaves nothing to go on with.
        self._batch = None
        batch.push(more)
        self._batch = batch
      else:
        self._batch = self._begin()
    except PromptError:
      self._pushed = pushed
      if self._batch is None:
        self._batch = self._begin()
      raise
    self._logprobs = None
    return self

  def fork(self) -> "Sessions":
    """The same texts, to go on with apart; what was read is shared."""
    other = object.__new__(Sessions)
    other.__dict__.update(self.__dict__)
    other._batch = self._batch.fork()
    return other

  @arguments.named(sampling.SamplingParams)
  def sample(
    self,
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: Any = None,
    **settings: Any,
  ) -> list[sampling.Sample]:
    """Draws a text after each; the session stays where it is.

    Args:
      key, max_bytes, constraint, and the others: see `ByteModel.sample`.
    """
    wanted = sampling.sampling_params(max_bytes, settings)
    contexts = [
      joined(context, text)
      for context, text in zip(self._contexts, self._pushed, strict=True)
    ]
    batch = self._batch.fork()
    batch.begin_draws(arguments.keys(key, len(contexts)))
    sampler = sampling.Sampler(
      batch,
      wanted,
      constraint=arguments.constraint(constraint),
      score=lambda drawn: self._model._score_drawn(contexts, drawn),
    )
    sampler.step()
    return sampler.samples()


class Session:
  """One text; see `Sessions`."""

  def __init__(self, sessions: Sessions):
    """Wraps a session of one text."""
    self._sessions = sessions

  @property
  def text(self) -> bytes:
    """The text since the last token id of its context."""
    return self._sessions.texts[0]

  @property
  def logprobs(self) -> Float[np.ndarray, "257"]:
    """Log-probs of the next byte, and of the text's end at 256, in nats."""
    return self._sessions.logprobs[0]

  def push(self, text: Text) -> "Session":
    """Goes on with bytes; see `Sessions.push`."""
    self._sessions.push([text])
    return self

  def fork(self) -> "Session":
    """The same text, to go on with apart; what was read is shared."""
    return Session(self._sessions.fork())

  @arguments.named(sampling.SamplingParams)
  def sample(
    self,
    key: jax.Array,
    max_bytes: int,
    *,
    constraint: Any = None,
    **settings: Any,
  ) -> sampling.Sample:
    """Draws what may follow; the session stays where it is.

    Args:
      key: from `jax.random.key`; it is this text's own.
      max_bytes: bytes at most.
      constraint, and the others: see `ByteModel.sample`.
    """
    own = key.reshape(1) if getattr(key, "ndim", None) == 0 else key
    found = self._sessions.sample(
      own, max_bytes, constraint=constraint, **settings
    )
    return found[0]


def joined(context: Context, text: bytes) -> Context:
  """A context with bytes after it."""
  if not text:
    return context
  if isinstance(context, prompt.Bare):
    return prompt.Bare(context + text)
  if isinstance(context, str | bytes | bytearray):
    return prompt.as_bytes(context) + text
  return [*context, text]


def tail(context: Context) -> bytes:
  """The bytes of a context after its last token id."""
  if isinstance(context, str | bytes | bytearray):
    return bytes(prompt.as_bytes(context))
  found = b""
  for item in context:
    is_text = isinstance(item, str | bytes | bytearray)
    found = found + prompt.as_bytes(item) if is_text else b""
  return found
