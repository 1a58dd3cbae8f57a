"""Host: GGUF files of tiny models, laid out as llama.cpp's converter does."""

import pathlib
import re

import gguf
import numpy as np
import transformers

_NAMES = {
  # Llama and its kind.
  r"model\.embed_tokens": "token_embd",
  r"model\.norm": "output_norm",
  r"lm_head": "output",
  r"model\.layers\.(\d+)\.self_attn\.q_proj": "blk.{}.attn_q",
  r"model\.layers\.(\d+)\.self_attn\.k_proj": "blk.{}.attn_k",
  r"model\.layers\.(\d+)\.self_attn\.v_proj": "blk.{}.attn_v",
  r"model\.layers\.(\d+)\.self_attn\.o_proj": "blk.{}.attn_output",
  r"model\.layers\.(\d+)\.self_attn\.q_norm": "blk.{}.attn_q_norm",
  r"model\.layers\.(\d+)\.self_attn\.k_norm": "blk.{}.attn_k_norm",
  r"model\.layers\.(\d+)\.mlp\.gate_proj": "blk.{}.ffn_gate",
  r"model\.layers\.(\d+)\.mlp\.(?:up_proj|c_fc)": "blk.{}.ffn_up",
  r"model\.layers\.(\d+)\.mlp\.(?:down_proj|c_proj)": "blk.{}.ffn_down",
  r"model\.layers\.(\d+)\.input_layernorm": "blk.{}.attn_norm",
  r"model\.layers\.(\d+)\.post_attention_layernorm": "blk.{}.ffn_norm",
  # GPT-2.
  r"transformer\.wte": "token_embd",
  r"transformer\.wpe": "position_embd",
  r"transformer\.ln_f": "output_norm",
  r"transformer\.h\.(\d+)\.ln_1": "blk.{}.attn_norm",
  r"transformer\.h\.(\d+)\.ln_2": "blk.{}.ffn_norm",
  r"transformer\.h\.(\d+)\.attn\.c_attn": "blk.{}.attn_qkv",
  r"transformer\.h\.(\d+)\.attn\.c_proj": "blk.{}.attn_output",
  r"transformer\.h\.(\d+)\.mlp\.c_fc": "blk.{}.ffn_up",
  r"transformer\.h\.(\d+)\.mlp\.c_proj": "blk.{}.ffn_down",
}
_GEMMA_NAMES = _NAMES | {
  r"model\.layers\.(\d+)\.post_attention_layernorm": (
    "blk.{}.post_attention_norm"
  ),
  r"model\.layers\.(\d+)\.pre_feedforward_layernorm": "blk.{}.ffn_norm",
  r"model\.layers\.(\d+)\.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
ARCHITECTURES = {
  "gpt2": "gpt2",
  "llama": "llama",
  "mistral": "llama",
  "qwen2": "qwen2",
  "qwen3": "qwen3",
  "gemma3_text": "gemma3",
  "starcoder2": "starcoder2",
}


def neighbours(x: np.ndarray, heads: int) -> np.ndarray:
  """Rows of half-split heads, in the order for rotating neighbours."""
  size = x.shape[0] // heads
  order = np.arange(size).reshape(2, size // 2).T.ravel()
  rows = (np.arange(heads)[:, None] * size + order[None]).ravel()
  return x[rows]


def tensors(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
  """The model's tensors by GGUF name, changed as the converter does."""
  config = model.config
  kind = config.model_type
  names = _GEMMA_NAMES if kind == "gemma3_text" else _NAMES
  tied = config.tie_word_embeddings
  result = {}
  for name, parameter in model.state_dict().items():
    if tied and name == "lm_head.weight":
      continue
    module, suffix = name.rsplit(".", 1)
    (form,) = (
      form.format(*match.groups())
      for pattern, form in names.items()
      if (match := re.fullmatch(pattern, module))
    )
    x = parameter.float().numpy()
    if kind in ("llama", "mistral"):
      if module.endswith("q_proj"):
        x = neighbours(x, config.num_attention_heads)
      if module.endswith("k_proj"):
        x = neighbours(x, config.num_key_value_heads)
    if kind == "gemma3_text" and module.endswith("norm"):
      x = x + np.float32(1)
    if kind == "gpt2" and x.ndim == 2 and ".h." in name:
      x = x.T
    result[f"{form}.{suffix}"] = np.ascontiguousarray(x)
  return result


def metadata(model: transformers.PreTrainedModel) -> dict[str, object]:
  """Keys under the architecture's prefix; plain values, or lists."""
  c = model.config
  kind = c.model_type
  layer_norm = kind in ("gpt2", "starcoder2")
  suffix = "epsilon" if layer_norm else "rms_epsilon"
  eps = {"gpt2": "layer_norm_epsilon", "starcoder2": "norm_epsilon"}
  keys = {
    "block_count": c.num_hidden_layers,
    "context_length": c.max_position_embeddings,
    "embedding_length": c.hidden_size,
    "feed_forward_length": getattr(c, "intermediate_size", None)
    or getattr(c, "n_inner", None)
    or 4 * c.hidden_size,
    "attention.head_count": c.num_attention_heads,
    f"attention.layer_norm_{suffix}": getattr(c, eps.get(kind, "rms_norm_eps")),
  }
  if kind == "gpt2":
    return keys
  keys["attention.head_count_kv"] = c.num_key_value_heads
  if getattr(c, "head_dim", None):
    keys["attention.key_length"] = c.head_dim
    keys["attention.value_length"] = c.head_dim
  rope = c.rope_parameters
  if kind == "gemma3_text":
    keys["attention.sliding_window"] = c.sliding_window
    keys["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
    keys["attention.sliding_window_pattern"] = [
      layer == "sliding_attention" for layer in c.layer_types
    ]
    if c.final_logit_softcapping:
      keys["final_logit_softcapping"] = c.final_logit_softcapping
    rope = rope["full_attention"]
  keys["rope.freq_base"] = rope["rope_theta"]
  if rope["rope_type"] == "linear":
    keys["rope.scaling.type"] = "linear"
    keys["rope.scaling.factor"] = rope["factor"]
  return keys


def write(
  path: pathlib.Path,
  architecture: str,
  keys: dict[str, object],
  arrays: dict[str, np.ndarray],
  kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
  general: dict[str, object] | None = None,
) -> pathlib.Path:
  """Writes a GGUF file; `kinds` says which tensors are quantised, and how."""
  writer = gguf.GGUFWriter(path, architecture)
  prefixed = {f"{architecture}.{k}": v for k, v in keys.items()}
  for key, value in (prefixed | (general or {})).items():
    if isinstance(value, bool):
      writer.add_bool(key, value)
    elif isinstance(value, int):
      writer.add_uint32(key, value)
    elif isinstance(value, float):
      writer.add_float32(key, value)
    elif isinstance(value, list):
      writer.add_array(key, value)
    else:
      writer.add_string(key, value)
  for name, x in arrays.items():
    kind = (kinds or {}).get(name)
    if kind is None:
      writer.add_tensor(name, x)
    else:
      writer.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def write_model(
  path: pathlib.Path, model: transformers.PreTrainedModel, **changes: object
) -> pathlib.Path:
  """Writes a torch model as GGUF; `changes` are further arguments."""
  architecture = ARCHITECTURES[model.config.model_type]
  keys = metadata(model) | changes.pop("keys", {})
  arrays = tensors(model) | changes.pop("arrays", {})
  return write(path, architecture, keys, arrays, **changes)
