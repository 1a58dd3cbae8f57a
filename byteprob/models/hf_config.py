"""Host: config.json of each Hugging Face family, into a `DecoderConfig`.

Each reader takes the fields of config.json, over the defaults that
transformers has for the family, and notes faults in them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from byteprob.models import config
from byteprob.models.config import DecoderConfig, Layer, Rope
from byteprob.models.fields import Fields

_ACTIVATIONS = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
}

# Far above anything real: the entries themselves take memory.
_MOST_LAYERS = 10_000

# fmt: off
IGNORED = frozenset({
  # Where the file comes from and what has been done with it.
  "_name_or_path", "architectures", "model_type", "transformers_version",
  "dtype", "torch_dtype", "unsloth_fixed", "transformers.js_config",
  "is_llama_config",
  # Training: initial values, and dropout, which is off afterwards.
  "initializer_range", "attention_dropout", "attn_pdrop", "embd_pdrop",
  "resid_pdrop", "residual_dropout", "embedding_dropout",
  "gradient_checkpointing", "problem_type", "task_specific_params",
  # How the same numbers are computed.
  "attn_implementation", "_attn_implementation",
  "_attn_implementation_autoset", "attention_softmax_in_fp32",
  "cache_implementation", "pretraining_tp", "reorder_and_upcast_attn",
  "scale_attention_softmax_in_fp32", "torchscript", "use_bfloat16",
  "use_cache",
  # What else is returned, and other heads.
  "id2label", "label2id", "n_ctx", "num_labels", "output_attentions",
  "output_hidden_states", "return_dict", "summary_activation",
  "summary_first_dropout", "summary_proj_to_labels", "summary_type",
  "summary_use_proj",
  # Special tokens: of the tokenizer, not the network.
  "bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class",
})
# fmt: on
"""Keys that do not change the logits."""

EXPECTED: Mapping[str, Any] = {
  "add_cross_attention": False,
  "chunk_size_feed_forward": 0,
  "is_decoder": False,
  "is_encoder_decoder": False,
  "mlp_type": "default",
  "norm_type": "layer_norm",
  "partial_rotary_factor": 1,
  "pruned_heads": {},
  "rope_interleaved": False,
  "scale_attn_by_inverse_layer_idx": False,
  "scale_attn_weights": True,
  "tie_encoder_decoder": False,
}
"""Keys that would change the logits, with the only value understood."""


def gpt2(f: Fields) -> DecoderConfig:
  """GPT-2."""
  width, heads = f.integer("n_embd"), f.integer("n_head")
  head_dim = max(width // heads, 1)
  return DecoderConfig(
    vocab_size=f.integer("vocab_size"),
    context_length=f.integer("n_positions"),
    width=width,
    heads=heads,
    kv_heads=heads,
    head_dim=head_dim,
    mlp_width=f.integer("n_inner", 4 * width),
    layers=(Layer(),) * _layer_count(f, "n_layer"),
    norm="layer",
    norm_eps=f.number("layer_norm_epsilon"),
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    activation=f.choice("activation_function", _ACTIVATIONS),
    gated_mlp=False,
    learned_positions=True,
    tied=f.flag("tie_word_embeddings", True),
    attention_scale=head_dim**-0.5,
  )


def llama(f: Fields, **changes: Any) -> DecoderConfig:
  """Llama's, and what others of its kind change of it."""
  width, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
  head_dim = f.integer("head_dim", max(width // heads, 1))
  bias = f.flag("attention_bias", False)
  kept = dict(
    vocab_size=f.integer("vocab_size"),
    context_length=f.integer("max_position_embeddings"),
    width=width,
    heads=heads,
    kv_heads=f.integer("num_key_value_heads", heads),
    head_dim=head_dim,
    mlp_width=f.integer("intermediate_size"),
    qkv_bias=bias,
    out_bias=bias,
    tied=f.flag("tie_word_embeddings", True),
    attention_scale=head_dim**-0.5,
  )
  for key, read in (
    ("activation", lambda: f.choice("hidden_act", _ACTIVATIONS)),
    ("norm_eps", lambda: f.number("rms_norm_eps")),
    ("mlp_bias", lambda: f.flag("mlp_bias", False)),
    ("layers", lambda: _layers(f, head_dim)),
  ):
    kept[key] = changes[key] if key in changes else read()
  return DecoderConfig(**(kept | changes))


def mistral(f: Fields) -> DecoderConfig:
  """Llama with a window in every layer."""
  return llama(f, layers=_layers(f, window=f.integer("sliding_window", None)))


def qwen2(f: Fields) -> DecoderConfig:
  """Llama with biases of queries, keys and values."""
  return llama(f, qkv_bias=True, layers=_qwen_layers(f))


def qwen3(f: Fields) -> DecoderConfig:
  """Llama with normalised queries and keys."""
  return llama(f, qk_norm=True, layers=_qwen_layers(f))


def starcoder2(f: Fields) -> DecoderConfig:
  """Layer norms, biases, a plain feed-forward block, a window."""
  bias = f.flag("use_bias")
  return llama(
    f,
    layers=_layers(f, window=f.integer("sliding_window", None)),
    norm="layer",
    norm_eps=f.number("norm_epsilon"),
    qkv_bias=bias,
    out_bias=bias,
    mlp_bias=bias,
    gated_mlp=False,
  )


def gemma3(f: Fields) -> DecoderConfig:
  """Gemma 3, the text model."""
  if f.flag("use_bidirectional_attention", False):
    f.problems.append("use_bidirectional_attention is true: not causal")
  if f.has("attn_logit_softcapping"):
    # transformers has the key but, unlike Gemma 2's, never applies it.
    f.problems.append("attn_logit_softcapping is set: not of Gemma 3")
  head_dim = _head_dim(f)
  window = f.integer("sliding_window", None)
  full = Layer(rope=_rope(f, head_dim, "full_attention"))
  local = Layer(window=window, rope=_rope(f, head_dim, "sliding_attention"))
  period = f.integer("_sliding_window_pattern", None)
  period = f.integer("sliding_window_pattern", period or 6)
  count = _layer_count(f, "num_hidden_layers")
  kinds = ["sliding_attention", "full_attention"]
  kinds = [kinds[(i + 1) % period == 0] for i in range(count)]
  return llama(
    f,
    layers=_by_kind(f, count, kinds, full, local),
    activation=f.choice("hidden_activation", _ACTIVATIONS),
    sandwich_norm=True,
    qk_norm=True,
    embedding_scale=f.integer("hidden_size") ** 0.5,
    attention_scale=f.number("query_pre_attn_scalar") ** -0.5,
    logit_softcap=f.number("final_logit_softcapping", None),
  )


def _layer_count(f: Fields, key: str) -> int:
  count = f.integer(key)
  if count > _MOST_LAYERS:
    f.problems.append(f"{key} is {count}, want at most {_MOST_LAYERS}")
    return 1
  return count


def _head_dim(f: Fields) -> int:
  width, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
  return f.integer("head_dim", max(width // heads, 1))


def _layers(f: Fields, head_dim: int = 0, window: int | None = None):
  """The same layer everywhere."""
  layer = Layer(window=window, rope=_rope(f, head_dim or _head_dim(f)))
  return (layer,) * _layer_count(f, "num_hidden_layers")


def _qwen_layers(f: Fields) -> tuple[Layer, ...]:
  """Full attention below `max_window_layers`, a window from there on."""
  count = _layer_count(f, "num_hidden_layers")
  window = f.integer("sliding_window", None)
  first = f.integer("max_window_layers", low=0)
  if not f.flag("use_sliding_window", False):
    window = None
  full = Layer(rope=_rope(f, _head_dim(f)))
  local = dataclasses.replace(full, window=window)
  kinds = ["full_attention"] * count
  if window is not None:
    kinds[first:] = ["sliding_attention"] * max(count - first, 0)
  return _by_kind(f, count, kinds, full, local)


def _by_kind(f, count, kinds, full, local) -> tuple[Layer, ...]:
  """Layers by `layer_types`, or by `kinds` where config.json has none."""
  given = f.get("layer_types")
  table = {"full_attention": full, "sliding_attention": local}
  if given is not None:
    kinds = given
  if not (isinstance(kinds, list) and len(kinds) == count):
    f.problems.append(f"layer_types must be a list of {count} names")
    return (full,) * count
  unknown = sorted({str(kind) for kind in kinds} - set(table))
  if unknown:
    f.problems.append(f"layer_types names {', '.join(unknown)}: not known")
    return (full,) * count
  if local.window is None and "sliding_attention" in kinds:
    f.problems.append("layer_types has sliding layers, but no sliding_window")
  return tuple(table[kind] for kind in kinds)


def _rope(f: Fields, head_dim: int, kind: str | None = None) -> Rope:
  """The rotary positions of the layers of one kind.

  transformers 5 writes `rope_parameters`, with one dict for each kind of
  layer where these differ; earlier versions wrote `rope_theta` and
  `rope_scaling`, and `rope_local_base_freq` for the sliding layers, which
  were never scaled.
  """
  new, scaling = f.get("rope_parameters"), f.get("rope_scaling")
  theta = 10_000.0
  if kind == "sliding_attention":
    theta = f.number("rope_local_base_freq", theta)
    scaling = None
  elif kind == "full_attention":
    theta = f.number("rope_theta", 1_000_000.0)
  else:
    theta = f.number("rope_theta", theta)
  if kind and isinstance(new, dict):
    if not set(new) <= {"full_attention", "sliding_attention"}:
      f.problems.append("rope_parameters is not by kind of layer")
    new = new.get(kind)
  # What is null or empty says nothing; the old key wins, as in transformers.
  given = scaling or new or {}
  if not isinstance(given, dict):
    f.problems.append("the rotary parameters must be an object")
    given = {}
  r = Fields(given, problems=f.problems)
  r.get("type")
  name = r.get("rope_type") or r.get("type") or "default"
  theta = r.number("rope_theta", theta)
  factors: tuple[float, ...] = ()
  if name == "linear":
    factors = config.linear_factors(head_dim, r.number("factor"))
  elif name == "llama3":
    low, high = r.number("low_freq_factor"), r.number("high_freq_factor")
    original = f.integer("max_position_embeddings")
    original = r.integer("original_max_position_embeddings", original)
    if low >= high:
      f.problems.append("low_freq_factor is not below high_freq_factor")
      return Rope(theta=theta)
    factors = config.llama3_factors(
      head_dim,
      theta=theta,
      factor=r.number("factor"),
      low_freq_factor=low,
      high_freq_factor=high,
      original_context=original,
    )
  elif name != "default":
    f.problems.append(
      f"rope_type {name!r} is not supported, only default, linear and llama3"
    )
    return Rope(theta=theta)
  for key, value in r.unread():
    if value is not None and (key, value) != ("partial_rotary_factor", 1):
      f.problems.append(f"rotary parameter {key} = {value!r} is not supported")
  return Rope(theta=theta, factors=factors)
