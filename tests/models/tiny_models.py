"""Host: tiny random models of every family, and what they give."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from byteprob import models

VOCAB = 61

_SIZES = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=2,
  pad_token_id=0,
)
LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=10_000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  # Short, so that all three ranges of frequencies are among the four here.
  original_max_position_embeddings=16,
)
_LINEAR = dict(rope_type="linear", rope_theta=1e6, factor=4.0)
_GEMMA_ROPE = dict(
  full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
  sliding_attention=dict(rope_type="default", rope_theta=1e4),
)

CASES: dict[str, tuple[str, dict]] = {
  "gpt2": ("GPT2Config", dict(n_inner=None)),
  "gpt2_untied": ("GPT2Config", dict(tie_word_embeddings=False, n_inner=40)),
  "llama": ("LlamaConfig", dict()),
  "llama_mha": ("LlamaConfig", dict(num_key_value_heads=4)),
  "llama_mqa_tied": (
    "LlamaConfig",
    dict(num_key_value_heads=1, tie_word_embeddings=True),
  ),
  "llama_biases": ("LlamaConfig", dict(attention_bias=True, mlp_bias=True)),
  "llama_head_dim": ("LlamaConfig", dict(head_dim=12)),
  "llama_llama3": ("LlamaConfig", dict(rope_parameters=LLAMA3)),
  "llama_linear": ("LlamaConfig", dict(rope_parameters=_LINEAR)),
  "mistral": ("MistralConfig", dict(sliding_window=5)),
  "mistral_full": ("MistralConfig", dict(sliding_window=None)),
  "qwen2": ("Qwen2Config", dict(tie_word_embeddings=True)),
  "qwen2_window": (
    "Qwen2Config",
    dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
  ),
  "qwen3": ("Qwen3Config", dict(head_dim=16)),
  "gemma3_text": (
    "Gemma3TextConfig",
    dict(
      head_dim=16,
      query_pre_attn_scalar=12,
      sliding_window=5,
      layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
  ),
  "gemma3_text_mqa_capped": (
    "Gemma3TextConfig",
    dict(
      head_dim=8,
      query_pre_attn_scalar=8,
      num_key_value_heads=1,
      sliding_window=7,
      layer_types=["sliding_attention", "sliding_attention", "full_attention"],
      rope_parameters=_GEMMA_ROPE,
      final_logit_softcapping=2.0,
    ),
  ),
  "starcoder2": ("Starcoder2Config", dict(sliding_window=5)),
  "starcoder2_no_bias": (
    "Starcoder2Config",
    dict(sliding_window=None, use_bias=False, tie_word_embeddings=False),
  ),
}


def make(name: str) -> transformers.PreTrainedModel:
  """The torch model of one case; no parameter has its initial value."""
  config_class, changes = CASES[name]
  sizes = _SIZES
  if config_class == "GPT2Config":
    sizes = {k: v for k, v in sizes.items() if k != "num_key_value_heads"}
    sizes.pop("intermediate_size")
  config = getattr(transformers, config_class)(**(sizes | changes))
  torch.manual_seed(sum(name.encode()))
  model = transformers.AutoModelForCausalLM.from_config(
    config, attn_implementation="eager"
  )
  with torch.no_grad():
    for parameter in model.parameters():
      # Scores and logits of about 1: what is wrong must be seen.
      spread = 0.3 if parameter.ndim > 1 else 0.5
      parameter.add_(spread * torch.randn_like(parameter))
  return model.eval()


def save(name: str, directory: pathlib.Path) -> transformers.PreTrainedModel:
  """Makes a case and writes it as a user would."""
  model = make(name)
  model.save_pretrained(directory)
  return model


def tokens(batch: int = 2, length: int = 24, seed: int = 0) -> np.ndarray:
  """Random token ids `int32[batch, length]`."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, VOCAB, (batch, length), dtype=np.int32)


def forward(config: models.DecoderConfig, params, ids) -> np.ndarray:
  """Our logits `float32[batch, length, V]`, compiled."""
  step = jax.jit(models.forward, static_argnums=0)
  return np.asarray(step(config, params, jnp.asarray(ids)))


def logits(model: transformers.PreTrainedModel, ids: np.ndarray) -> np.ndarray:
  """The torch model's logits `float32[batch, length, V]`."""
  with torch.no_grad():
    return model(torch.tensor(ids, dtype=torch.long)).logits.float().numpy()
