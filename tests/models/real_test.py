"""Host: real GGUF files give the logits of transformers' own models.

The torch models are put together here from what was published (config.json)
and from the file's numbers as the gguf package's reader gives them, neither
of which the library uses.
"""

import gguf
import gguf_writing
import numpy as np
import pytest
import tiny_models as tiny
import torch
import transformers

from byteprob import models

pytestmark = pytest.mark.download

_MODULES = {
  "token_embd": "model.embed_tokens",
  "output_norm": "model.norm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
  "attn_norm": "input_layernorm",
}
_LLAMA_MODULES = _MODULES | {"ffn_norm": "post_attention_layernorm"}
_GEMMA_MODULES = _MODULES | {
  "post_attention_norm": "post_attention_layernorm",
  "ffn_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}


def _state(path, modules, change):
  """The file's tensors by the names of torch's modules."""
  state = {}
  for tensor in gguf.GGUFReader(path).tensors:
    *block, module, end = tensor.name.split(".")
    name = modules[module]
    if block:
      name = f"model.layers.{block[1]}.{name}"
    x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    state[f"{name}.{end}"] = torch.tensor(change(module, x))
  return state


def _torch_logits(model_class, config, state, ids):
  model = model_class._from_config(config, attn_implementation="eager")
  missing, unexpected = model.load_state_dict(state, strict=False)
  # Tied to the embedding, which is there.
  assert set(missing) <= {"lm_head.weight"} and not unexpected
  return tiny.logits(model.eval(), ids)


def _close(got, want):
  """Within 1e-4 of the largest logit, in float32."""
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def _ids(length, vocab_size):
  ids = np.random.default_rng(0).integers(0, vocab_size, (1, length))
  return ids.astype(np.int32)


def test_smollm2_equals_transformers(smollm2_path):
  heads = {"attn_q": 9, "attn_k": 3}

  def half_split(module, x):
    if module not in heads:
      return x
    order = gguf_writing.neighbours(np.arange(len(x)), heads[module])
    result = np.empty_like(x)
    result[order] = x
    return result

  torch_config = transformers.LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    tie_word_embeddings=True,
  )
  ids = _ids(64, 49152)
  state = _state(smollm2_path, _LLAMA_MODULES, half_split)
  want = _torch_logits(transformers.LlamaForCausalLM, torch_config, state, ids)
  config, params = models.load_gguf(smollm2_path)
  _close(tiny.forward(config, params, ids), want)


@pytest.mark.slow
def test_gemma3_equals_transformers_beyond_its_window(gemma3_path):
  torch_config = transformers.Gemma3TextConfig(
    vocab_size=262_144,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=18,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
    max_position_embeddings=32_768,
    query_pre_attn_scalar=256,
    sliding_window=512,
    rms_norm_eps=1e-6,
    layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
  )
  ids = _ids(520, 262_144)

  def from_one(module, x):
    return x - 1 if module.endswith("norm") else x

  state = _state(gemma3_path, _GEMMA_MODULES, from_one)
  want = _torch_logits(transformers.Gemma3ForCausalLM, torch_config, state, ids)
  config, params = models.load_gguf(gemma3_path)
  assert [layer.window for layer in config.layers] == [512] * 5 + [None] + (
    [512] * 5 + [None]
  ) * 2
  _close(tiny.forward(config, params, ids), want)
