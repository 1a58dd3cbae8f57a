"""Host: transformers' own models, of the same shape as ours, to time them."""

import importlib.util
import time

import transformers

from byteprob.models import DecoderConfig


def available() -> bool:
  """Whether torch is there."""
  return importlib.util.find_spec("torch") is not None


def like(config: DecoderConfig):
  """A transformers config of the same shape; None for other families."""
  shape = {
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": len(config.layers),
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "max_position_embeddings": config.context_length,
    "tie_word_embeddings": config.tied,
  }
  if config.norm != "rms" or not config.gated_mlp or config.qkv_bias:
    return None
  if config.sandwich_norm:
    kinds = [
      "sliding_attention" if layer.window else "full_attention"
      for layer in config.layers
    ]
    windows = {layer.window for layer in config.layers if layer.window}
    return transformers.Gemma3TextConfig(
      **shape, layer_types=kinds, sliding_window=max(windows, default=512)
    )
  return None if config.qk_norm else transformers.LlamaConfig(**shape)


def seconds_per_token(
  config: DecoderConfig, prompt: int, tokens: int, repeats: int
) -> float | None:
  """Median seconds for a new token, of one text, float32, with random weights.

  Args:
    config: the shape.
    prompt: tokens before it.
    tokens: how many new ones are timed.
    repeats: how often.

  Returns:
    None if transformers has no such model here.
  """
  shape = like(config)
  if shape is None:
    return None
  import torch

  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(shape).eval()
  ids = torch.randint(0, config.vocab_size, (1, prompt))

  def generate(count: int) -> float:
    begun = time.perf_counter()
    model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=count,
      min_new_tokens=count,
      do_sample=True,
      pad_token_id=0,
    )
    return time.perf_counter() - begun

  generate(2)
  found = [
    (generate(tokens + 1) - generate(1)) / tokens for _ in range(repeats)
  ]
  return sorted(found)[len(found) // 2]
