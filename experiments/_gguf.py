"""Host: a trained model as a GGUF file of 8-bit weights, for llama.cpp, too.

Half the size of bfloat16. Matrices are Q8_0 (blocks of 32 numbers with a scale
each), norms float32. GGUF has names for pre-tokenizers, not rules; so that the
tokenizer stays what it is, its `tokenizer.json` goes along whole.
"""

import json
import pathlib
from typing import Any

import gguf
import numpy as np

from byteprob import store
from byteprob.errors import ByteprobError
from byteprob.models import config as config_lib
from byteprob.tokenization.gguf import WHOLE
from experiments import _data, _runtime, _tokenizers

_LAYER = {
  "attn_norm": ("attention_norm", "scale"),
  "attn_q": ("attention", "query", "weight"),
  "attn_k": ("attention", "key", "weight"),
  "attn_v": ("attention", "value", "weight"),
  "attn_output": ("attention", "out", "weight"),
  "ffn_norm": ("mlp_norm", "scale"),
  "ffn_gate": ("mlp", "gate", "weight"),
  "ffn_up": ("mlp", "up", "weight"),
  "ffn_down": ("mlp", "down", "weight"),
}
"""Names in a llama's layers, and where our parameters are."""

_KIND = gguf.GGMLQuantizationType.Q8_0


def tensors(
  config: config_lib.DecoderConfig, params: Any
) -> dict[str, np.ndarray]:
  """Parameters under a llama's names: `float32[out, in]`."""
  found = {
    "token_embd.weight": params["embed"]["embedding"],
    "output_norm.weight": params["final_norm"]["scale"],
  }
  for i in range(len(config.layers)):
    for name, path in _LAYER.items():
      leaf = params[f"layer_{i}"]
      for key in path:
        leaf = leaf[key]
      heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name)
      leaf = np.asarray(leaf, np.float32)
      found[f"blk.{i}.{name}.weight"] = (
        neighbours(leaf, heads) if heads else leaf
      )
  return {name: np.asarray(leaf, np.float32) for name, leaf in found.items()}


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows of half-split heads, in the order for rotating neighbours."""
  halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
  return halves.swapaxes(1, 2).reshape(rows.shape)


def export(
  workdir: _runtime.Workdir,
  path: pathlib.Path,
  config: config_lib.DecoderConfig,
  params: Any,
) -> None:
  """Writes the model of a finished run, with a byte-level tokenizer."""
  write(path, config, params, workdir / "tokenizer.json")


def write(
  path: pathlib.Path,
  config: config_lib.DecoderConfig,
  params: Any,
  tokenizer: pathlib.Path,
) -> None:
  """Writes a model, whole or not at all.

  Args:
    path: where.
    config: such as `train_lm` makes.
    params: the decoder's.
    tokenizer: a `tokenizer.json` of the byte-level kind.

  Raises:
    ByteprobError: it is of another kind.
  """
  spec = tokenizer.read_text(encoding="utf-8")
  markers = _tokenizers.markers(_data.load_tokenizer(tokenizer))
  if markers.start != markers.end:
    raise ByteprobError(
      "Only models with a byte-level tokenizer are written as GGUF; export to"
      " a directory instead."
    )
  with store.atomic_path(path) as part:
    writer = gguf.GGUFWriter(part, "llama")
    _add_config(writer, config)
    _add_tokenizer(writer, json.loads(spec), markers)
    writer.add_string(WHOLE, spec)
    for name, leaf in tensors(config, params).items():
      if leaf.ndim == 1:
        writer.add_tensor(name, leaf)
      else:
        leaf = gguf.quants.quantize(leaf, _KIND)
        writer.add_tensor(name, leaf, raw_dtype=_KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_config(
  writer: gguf.GGUFWriter, config: config_lib.DecoderConfig
) -> None:
  [rope] = {layer.rope for layer in config.layers}
  writer.add_vocab_size(config.vocab_size)
  writer.add_context_length(config.context_length)
  writer.add_embedding_length(config.width)
  writer.add_block_count(len(config.layers))
  writer.add_feed_forward_length(config.mlp_width)
  writer.add_head_count(config.heads)
  writer.add_head_count_kv(config.kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_rope_dimension_count(config.head_dim)
  writer.add_rope_freq_base(rope.theta)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _add_tokenizer(
  writer: gguf.GGUFWriter, spec: dict[str, Any], markers: _data.Markers
) -> None:
  """Adds the tokenizer for llama.cpp, whose "qwen2" cuts as ours do."""
  special = {token["id"]: token["content"] for token in spec["added_tokens"]}
  by_id = {i: text for text, i in spec["model"]["vocab"].items()} | special
  kinds = [
    gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
    for i in sorted(by_id)
  ]
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("qwen2")
  writer.add_token_list([by_id[i] for i in sorted(by_id)])
  writer.add_token_types(kinds)
  writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
  writer.add_bos_token_id(markers.start)
  writer.add_eos_token_id(markers.end)
  writer.add_add_bos_token(True)
  for name in ("prefix", "suffix", "middle"):
    key = f"tokenizer.ggml.fim_{name[:3]}_token_id"
    writer.add_uint32(key, getattr(markers, name))
