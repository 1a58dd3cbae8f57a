"""Host: the parts of a text that a model's context has room for.

A text takes as many places of a context as its longest node has tokens, and
one for each token before it. Where a part of a text begins, tokens are not
what they are in the middle of it, so parts are read anew.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from byteprob import ByteLM, prompt, scoring
from byteprob.errors import PromptError
from byteprob.plan import ScoringQuery

_BYTES_OF_A_TOKEN = 16
"""No text has more on average: what is longer is not read to be measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
  """Cuts texts for models that read them together.

  Texts and parts begin and end with whole characters.

  Attributes:
    lms: the models.
    max_length: tokens at most, if a model's context has room for more.
  """

  lms: Sequence[ByteLM]
  max_length: int | None = None

  def room(self, lm: ByteLM) -> int:
    """Tokens that a model may read, those that begin a text among them."""
    most = lm.model.context_length
    return most if self.max_length is None else min(self.max_length, most)

  def working(self, text: bytes) -> bytes:
    """A text as the tokenizers normalize it."""
    for lm in self.lms:
      text = prompt.working(lm.tables.info, text, partial=False)
    return text

  def over(self, text: bytes) -> Int[np.ndarray, " n+1"]:
    """Tokens for which there is no room, for each prefix of a working text.

    Of the model that has room for fewest; 0 or less where all fit.
    """
    return np.max([self._over(lm, text) for lm in self.lms], axis=0)

  def _over(self, lm: ByteLM, text: bytes) -> Int[np.ndarray, " n+1"]:
    info = lm.tables.info
    bare = info.prefix == "unless_space" and text.startswith(b" ")
    spaced = bool(info.prefix) and not bare
    query = ScoringQuery(
      prefix=info.start_ids, text=b" " * spaced + text, start=lm.tables.start
    )
    nodes = scoring.nodes(lm.tables, query)
    tokens = np.zeros(len(query.text) + 1, np.int32)
    np.maximum.at(tokens, nodes.end, nodes.depth)
    tokens = np.maximum.accumulate(tokens)[spaced:]
    return len(info.start_ids) + tokens - self.room(lm)

  @property
  def _longest(self) -> int:
    """Bytes that are read of a text to see how many of them fit."""
    return _BYTES_OF_A_TOKEN * min(self.room(lm) for lm in self.lms)

  def fits(self, text: bytes, spare: int = 0) -> bool:
    """Whether there is room for a working text and `spare` tokens after it."""
    infos = [lm.tables.info for lm in self.lms]
    least = min(
      self.room(lm) - len(info.start_ids) - bool(info.prefix)
      for lm, info in zip(self.lms, infos, strict=True)
    )
    # A token has a byte or more: most texts need not be read.
    if len(text) + spare <= least:
      return True
    return len(text) <= self._longest and self.over(text)[-1] + spare <= 0

  def head(self, text: bytes) -> bytes:
    """As much of the beginning of a working text as there is room for."""
    over = self.over(text[: self._longest])
    size = int(np.flatnonzero(over <= 0).max(initial=0))
    while size < len(text) and _inside(text[size]):
      size -= 1
    return text[:size]

  def tail(self, text: bytes, spare: int = 0) -> bytes:
    """As much of the end of a working text as there is room for.

    It is cut where tokens end, and may be a few bytes less than would fit.

    Args:
      text: the text.
      spare: tokens that there must be room for after it.
    """
    at = max(0, len(text) - self._longest)
    while True:
      while at < len(text) and _inside(text[at]):
        at += 1
      text = text[at:]
      over = self.over(text) + spare
      if over[-1] <= 0 or not text:
        return text
      # Without these bytes there are as many tokens less, or nearly.
      tokens = over - over[0]
      at = max(1, int(np.argmax(tokens >= min(over[-1], tokens[-1]))))

  def rolling(self, text: bytes) -> list[tuple[bytes, bytes]]:
    """Contexts and parts, of which each byte of a working text is in one.

    As lm_eval has it: each part is as long as there is room for, after one
    character of context (or two, where that is a space); but the last has as
    much context as fits.

    Raises:
      PromptError: there is room for less than two characters.
    """
    if self.fits(text):
      return [(b"", text)] if text else []
    parts: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(text):
      before = _before(text, at)
      if text[before:at] == b" ":
        # At the beginning a tokenizer may take it for the one it puts there.
        before = _before(text, before)
      end = before + len(self.head(text[before:]))
      if end <= at:
        raise PromptError(
          "There is no room for two characters in the context; give a larger"
          " max_length."
        )
      if end == len(text) and parts:
        before = min(before, len(text) - len(self.tail(text)))
      parts.append((text[before:at], text[at:end]))
      at = end
    return parts


def _before(text: bytes, at: int) -> int:
  """Where the character before a place begins; 0 at the beginning."""
  at = max(at - 1, 0)
  while _inside(text[at]):
    at -= 1
  return at


def _inside(byte: int) -> bool:
  """Whether a byte goes on with a character."""
  return byte & 0xC0 == 0x80
