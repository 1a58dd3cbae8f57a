"""Device: one byte-level model, as pure functions that can be composed.

The order of arguments is always `config, tables, params, state`; what a
function does not need is left out. `config` is static, all else are arrays.
See `docs/in_your_jax_program.md`.
"""

from byteprob.engine.batch import request_of
from byteprob.engine.config import EngineConfig
from byteprob.engine.needs import Needs
from byteprob.engine.request import DecodeRequest, LogitWarpers
from byteprob.engine.stepping import (
  Drawn,
  Reading,
  TextState,
  enlarge,
  generate,
  init,
  larger,
  next_logprobs,
  read,
  settle,
  step,
)
from byteprob.engine.text import text_logprobs

__all__ = [
  "DecodeRequest",
  "Drawn",
  "EngineConfig",
  "LogitWarpers",
  "Needs",
  "Reading",
  "TextState",
  "enlarge",
  "generate",
  "init",
  "larger",
  "next_logprobs",
  "read",
  "request_of",
  "settle",
  "step",
  "text_logprobs",
]
