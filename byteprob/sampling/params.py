"""Host: what users may ask of the samplers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from byteprob import arguments
from byteprob.engine.request import LogitWarpers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
  """How texts are drawn, symbol by symbol: bytes or tokens.

  Attributes:
    max_bytes: bytes of each text at most.
    temperature: log-probs are divided by it; above 0.
    top_k: only the most probable so many symbols; 0 for all.
    top_p: only the fewest symbols with this probability together.
    min_p: only symbols with at least this share of the largest probability.
    greedy: always the most probable symbol.
    stop: strings of bytes after which a text stops; they stay in it.
  """

  max_bytes: int
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  greedy: bool = False
  stop: tuple[bytes, ...] = ()

  def __post_init__(self):
    """Checks the values.

    Raises:
      ValueError: one makes no sense.
    """
    if self.max_bytes < 1:
      raise ValueError(f"max_bytes must be at least 1, not {self.max_bytes}")
    if not self.temperature > 0:
      raise ValueError(
        f"temperature must be above 0, not {self.temperature}; for the most"
        " probable symbol each time use greedy=True"
      )
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
    if not 0 <= self.min_p <= 1:
      raise ValueError(f"min_p must be in [0, 1], not {self.min_p}")
    if self.top_k < 0:
      raise ValueError(f"top_k must be 0 (for all) or more, not {self.top_k}")
    if not all(self.stop):
      raise ValueError("a stop string must have at least one byte")

  def warpers(self, symbols: int) -> LogitWarpers:
    """The same for the device, where there are so many symbols."""
    return LogitWarpers(
      temperature=np.float32(self.temperature),
      top_k=np.int32(self.top_k or symbols),
      top_p=np.float32(self.top_p),
      min_p=np.float32(self.min_p),
      greedy=np.bool_(self.greedy),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams(Common):
  """How texts are drawn, byte by byte; see `Common`.

  Attributes:
    eps: token sequences that carry less than this share of the text's
      probability when they begin are left out; 0 leaves out nothing.
    exact: evaluate every token sequence before each byte, not only those that
      a draw depends on: the same bytes, about one model call each, and their
      log-probs come with them.
  """

  eps: float = 0.0
  exact: bool = False

  def __post_init__(self):
    """Checks the values.

    Raises:
      ValueError: one makes no sense.
    """
    super().__post_init__()
    if not 0 <= self.eps < 1:
      raise ValueError(f"eps must be in [0, 1), not {self.eps}")


def sampling_params(max_bytes: Any, given: Mapping[str, Any]) -> SamplingParams:
  """The parameters as users write them.

  Raises:
    ValueError: one makes no sense, or does not exist.
  """
  values = {"max_bytes": max_bytes, **given}
  if "stop" in values:
    values["stop"] = arguments.stops(values["stop"])
  return arguments.settings(SamplingParams, values)
