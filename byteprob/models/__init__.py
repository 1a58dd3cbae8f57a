"""Device: decoders in Flax Linen, and checkpoints read into them."""

from byteprob.models.checkpoint import load_model, load_params, read_info
from byteprob.models.config import (
  DecoderConfig,
  Layer,
  Rope,
  linear_factors,
  llama3_factors,
)
from byteprob.models.decoder import (
  Decoder,
  cast_params,
  extend,
  forward,
  init_cache,
  init_params,
  make_model,
)
from byteprob.models.gguf import load_gguf
from byteprob.models.hf import load_hf
from byteprob.models.info import CheckpointInfo

__all__ = [
  "CheckpointInfo",
  "Decoder",
  "DecoderConfig",
  "Layer",
  "Rope",
  "cast_params",
  "extend",
  "forward",
  "init_cache",
  "init_params",
  "linear_factors",
  "llama3_factors",
  "load_gguf",
  "load_hf",
  "load_model",
  "load_params",
  "make_model",
  "read_info",
]
