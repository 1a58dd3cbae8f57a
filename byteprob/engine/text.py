"""Device: log-probs of whole texts, as a function of the parameters."""

from jaxtyping import Array, Float, Int, UInt8

from byteprob.engine.config import EngineConfig
from byteprob.engine.stepping import init, read
from byteprob.tokenization.tables import Tables
from byteprob.types import Params


def text_logprobs(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  text: UInt8[Array, "B n"],
  length: Int[Array, " B"],
  start: Int[Array, " B"] | None = None,
  root_id: Int[Array, " B"] | None = None,
) -> Float[Array, "B n"]:
  """Log-prob of each byte of each text given those before it.

  With `EngineConfig.differentiable`, `jax.grad` by the parameters passes.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    text: bytes, padded.
    length: how many there are of each.
    start, root_id: see `init`.

  Returns:
    Nats; 0 after a text's end; NaN where there was too little room: then ask
    `read` what is lacking.
  """
  state = init(config, tables, len(text), start, root_id)
  return read(config, tables, params, state, text, length)[1].logprob
