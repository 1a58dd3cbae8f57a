"""Host: GGUF files, as llama.cpp and its converters write them.

What these do to a model, and is undone here: llama's rows of queries and keys
are in the order for rotating neighbours; Gemma's norm weights have their one
added; Llama 3's scaling of frequencies is a tensor of its own. What they leave
out: the windows of Mistral and StarCoder2 (llama.cpp has none either).
"""

import dataclasses
import functools
import os
import pathlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from byteprob import errors
from byteprob.models import assemble, config, fields, gguf_file
from byteprob.models.assemble import Dtype, Rule, Source
from byteprob.models.config import DecoderConfig, Layer, Rope
from byteprob.models.fields import Fields
from byteprob.models.info import CheckpointInfo
from byteprob.types import Params

_ROPE_FACTORS = "rope_freqs.weight"
_MOST_LAYERS = 10_000
# Keys that do not change the logits, and keys with the only value understood.
_IGNORED = frozenset(
  {"rope.scaling.original_context_length", "rope.scaling.finetuned"}
)
_EXPECTED: Mapping[str, Any] = {
  "attention.causal": True,
  "expert_count": 0,
  "expert_used_count": 0,
  "use_parallel_residual": False,
}


def load_gguf(
  path: str | os.PathLike[str],
  dtype: Dtype = "float32",
  mesh: Mesh | None = None,
) -> tuple[DecoderConfig, Params]:
  """Reads a model from one GGUF file.

  Architectures: gpt2, llama (also Mistral, Yi, SmolLM2), qwen2, qwen3,
  gemma3, starcoder2. Numbers: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1
  and the K kinds; they are computed with as `dtype`.

  Args:
    path: the file.
    dtype: of the parameters; those of norms are always float32.
    mesh: see `assemble.assemble`.

  Returns:
    The config, and parameters for `byteprob.models.extend`.

  Raises:
    CheckpointError: the file is missing, broken, of an unknown kind, or does
      not fit; the message lists all that was found.
    MeshError: the mesh cannot split the model.
  """
  assemble.check_dtype(dtype)
  path = pathlib.Path(path)
  file = gguf_file.read_gguf(path)
  problems: list[str] = []
  architecture, config = _read_config(path, file, problems)
  sources = {
    name: Source(shape=tensor.shape, read=tensor.read)
    for name, tensor in file.tensors.items()
  }
  params = assemble.assemble(
    config,
    sources,
    architecture.rules(config),
    dtype,
    where=path,
    problems=problems,
    mesh=mesh,
  )
  return config, params


def read_gguf_info(path: str | os.PathLike[str]) -> CheckpointInfo:
  """Reads what a GGUF file says about its special tokens.

  Raises:
    CheckpointError: as `load_gguf`, of the header.
  """
  metadata = gguf_file.read_gguf(path).metadata

  def ids(*names):
    values = (metadata.get(f"tokenizer.ggml.{n}_token_id") for n in names)
    found = [i for i in values if type(i) is int and i >= 0]
    return tuple(dict.fromkeys(found))

  return CheckpointInfo(
    family=str(metadata.get("general.architecture")),
    bos_id=next(iter(ids("bos")), None),
    eos_ids=ids("eos", "eot"),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Architecture:
  """One value of `general.architecture`.

  Attributes:
    read: from the fields under the architecture's prefix to a config; the
      second argument is the file.
    rules: from tensor names to parameters, for one config.
  """

  read: Callable[[Fields, gguf_file.GgufFile], DecoderConfig]
  rules: Callable[[DecoderConfig], list[Rule]]


def _read_config(
  path: pathlib.Path, file: gguf_file.GgufFile, problems: list[str]
) -> tuple[_Architecture, DecoderConfig]:
  """The config; what the file has too much goes to `problems`."""
  name = file.metadata.get("general.architecture")
  architecture = _ARCHITECTURES.get(name) if isinstance(name, str) else None
  if architecture is None:
    raise errors.CheckpointError(
      f"{path}: architecture {name!r} is not supported, only "
      f"{', '.join(_ARCHITECTURES)}"
    )
  general = Fields(file.metadata, problems=problems)
  general.choice("general.type", {"model": None}, "model")
  if general.integer("split.count", 1, low=0) > 1:
    problems.append("it is one of several parts: merge them (llama-gguf-split)")
  prefix = f"{name}."
  known = Fields(
    {
      key.removeprefix(prefix): value
      for key, value in file.metadata.items()
      if key.startswith(prefix)
    },
    problems=problems,
  )
  config = fields.build(lambda: architecture.read(known, file), path, problems)
  problems.extend(
    f"{prefix}{key} is {reprlib.repr(value)}, which is not implemented"
    for key, value in known.unread()
    if key not in _IGNORED
    and not (key in _EXPECTED and _EXPECTED[key] == value)
  )
  return architecture, config


def _sizes(f: Fields, file: gguf_file.GgufFile) -> dict[str, Any]:
  """Reads the sizes that every architecture has."""
  width, heads = (
    f.integer("embedding_length"),
    f.integer("attention.head_count"),
  )
  head_dim = f.integer("attention.key_length", max(width // heads, 1))
  for key in ("attention.value_length", "rope.dimension_count"):
    if f.integer(key, head_dim) != head_dim:
      f.problems.append(f"{key} is not the size of a head, {head_dim}")
  # The only size with no key in every file.
  embedding = file.tensors.get("token_embd.weight")
  rows = embedding.shape[0] if embedding else 1
  vocab_size = f.integer("vocab_size", rows)
  f.get("tensor_data_layout")
  return dict(
    vocab_size=vocab_size,
    context_length=f.integer("context_length"),
    width=width,
    heads=heads,
    kv_heads=f.integer("attention.head_count_kv", heads),
    head_dim=head_dim,
    mlp_width=f.integer("feed_forward_length"),
    tied="output.weight" not in file.tensors,
    attention_scale=head_dim**-0.5,
  )


def _layer_count(f: Fields) -> int:
  count = f.integer("block_count")
  if count > _MOST_LAYERS:
    f.problems.append(f"block_count is {count}, want at most {_MOST_LAYERS}")
    return 1
  return count


def _rope(f: Fields, file: gguf_file.GgufFile, head_dim: int) -> Rope:
  theta = f.number("rope.freq_base", 10_000.0)
  kinds = {"none": "none", "linear": "linear"}
  scaling = f.choice("rope.scaling.type", kinds, "none")
  factor = f.number("rope.scaling.factor", 1.0)
  factors: tuple[float, ...] = ()
  if scaling == "linear":
    factors = config.linear_factors(head_dim, factor)
  tensor = file.tensors.get(_ROPE_FACTORS)
  if tensor is None:
    return Rope(theta=theta, factors=factors)
  right = tensor.shape == (head_dim // 2,) and scaling == "none"
  values = tensor.read() if right else np.zeros(1)
  if not np.all((values > 0) & np.isfinite(values)):
    f.problems.append(f"{_ROPE_FACTORS} is not a table of rotary factors")
    return Rope(theta=theta)
  return Rope(theta=theta, factors=tuple(float(x) for x in values))


def _llama(
  f: Fields, file: gguf_file.GgufFile, **changes: Any
) -> DecoderConfig:
  """Llama's, and what others of its kind change of it."""
  sizes = _sizes(f, file)
  window = f.integer("attention.sliding_window", None)
  layer = Layer(rope=_rope(f, file, sizes["head_dim"]), window=window)
  biased = {
    "qkv_bias": "blk.0.attn_q.bias",
    "out_bias": "blk.0.attn_output.bias",
    "mlp_bias": "blk.0.ffn_up.bias",
  }
  kept = {key: name in file.tensors for key, name in biased.items()}
  kept["layers"] = (layer,) * _layer_count(f)
  if "norm_eps" not in changes:
    kept["norm_eps"] = f.number("attention.layer_norm_rms_epsilon")
  return DecoderConfig(**(sizes | kept | changes))


def _starcoder2(f: Fields, file: gguf_file.GgufFile) -> DecoderConfig:
  return _llama(
    f,
    file,
    norm="layer",
    norm_eps=f.number("attention.layer_norm_epsilon"),
    activation="gelu_tanh",
    gated_mlp=False,
  )


def _gemma3(f: Fields, file: gguf_file.GgufFile) -> DecoderConfig:
  sizes = _sizes(f, file)
  count = _layer_count(f)
  full = Layer(rope=_rope(f, file, sizes["head_dim"]))
  # Not in files before 2025's end; llama.cpp has the same defaults.
  local = Layer(
    rope=Rope(theta=f.number("rope.freq_base_swa", 10_000.0)),
    window=f.integer("attention.sliding_window"),
  )
  pattern = f.get("attention.sliding_window_pattern")
  if isinstance(pattern, np.ndarray) and len(pattern) == count:
    is_local = [bool(x) for x in pattern]
  else:
    period = f.integer("attention.sliding_window_pattern", 6)
    is_local = [(i + 1) % period != 0 for i in range(count)]
  # No key says so, but the largest model (62 layers) scales by another size.
  scaled = sizes["head_dim"]
  if count == 62:
    scaled = sizes["width"] / sizes["heads"]
  return DecoderConfig(
    **(sizes | {"attention_scale": scaled**-0.5}),
    layers=tuple(local if x else full for x in is_local),
    norm_eps=f.number("attention.layer_norm_rms_epsilon"),
    sandwich_norm=True,
    qk_norm=True,
    activation="gelu_tanh",
    embedding_scale=sizes["width"] ** 0.5,
    logit_softcap=f.number("final_logit_softcapping", None),
  )


def _gpt2(f: Fields, file: gguf_file.GgufFile) -> DecoderConfig:
  return DecoderConfig(
    **_sizes(f, file),
    layers=(Layer(),) * _layer_count(f),
    norm="layer",
    norm_eps=f.number("attention.layer_norm_epsilon"),
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    activation="gelu_tanh",
    gated_mlp=False,
    learned_positions=True,
  )


_BLOCK = r"blk\.(\d+)\."
_LINEAR = {
  _BLOCK + "attn_v": "layer_{}/attention/value",
  _BLOCK + "attn_output": "layer_{}/attention/out",
  _BLOCK + "ffn_gate": "layer_{}/mlp/gate",
  _BLOCK + "ffn_up": "layer_{}/mlp/up",
  _BLOCK + "ffn_down": "layer_{}/mlp/down",
  "output": "head",
}
_QUERY_KEY = {
  _BLOCK + "attn_q": "layer_{}/attention/query",
  _BLOCK + "attn_k": "layer_{}/attention/key",
}
_NORMS = {
  _BLOCK + "attn_norm": "layer_{}/attention_norm",
  _BLOCK + "post_attention_norm": "layer_{}/post_attention_norm",
  _BLOCK + "ffn_norm": "layer_{}/mlp_norm",
  _BLOCK + "post_ffw_norm": "layer_{}/post_mlp_norm",
  _BLOCK + "attn_q_norm": "layer_{}/attention/query_norm",
  _BLOCK + "attn_k_norm": "layer_{}/attention/key_norm",
  "output_norm": "final_norm",
}
_WEIGHT = Rule(pattern=r"\.weight", targets=("weight",))
_BIAS = Rule(pattern=r"\.bias", targets=("bias",))
_SCALE = Rule(pattern=r"\.weight", targets=("scale",))
_EMBEDDING = Rule(pattern=r"\.weight", targets=("embedding",))


def _rules(config: DecoderConfig, interleaved: bool = False) -> list[Rule]:
  """The names are the same in every architecture.

  A tensor that one does not have fails to find its parameter.
  """
  query_key = []
  for module, heads in zip(
    _QUERY_KEY.items(), (config.heads, config.kv_heads), strict=True
  ):
    query_key += assemble.rules(
      dict([module]),
      [
        dataclasses.replace(rule, interleaved=heads if interleaved else 0)
        for rule in (_WEIGHT, _BIAS)
      ],
    )
  qkv = [f"layer_{{0}}/attention/{n}" for n in ("query", "key", "value")]
  return [
    *assemble.rules({"token_embd": "embed"}, [_EMBEDDING]),
    *assemble.rules({"position_embd": "position"}, [_EMBEDDING]),
    *query_key,
    *(
      dataclasses.replace(
        rule,
        pattern=_BLOCK + "attn_qkv" + rule.pattern,
        targets=tuple(f"{path}/{rule.targets[0]}" for path in qkv),
      )
      for rule in (_WEIGHT, _BIAS)
    ),
    *assemble.rules(_LINEAR, [_WEIGHT, _BIAS]),
    *assemble.rules(_NORMS, [_SCALE, _BIAS]),
    # Read with the config.
    Rule(pattern=_ROPE_FACTORS.replace(".", r"\.")),
  ]


_ARCHITECTURES: Mapping[str, _Architecture] = {
  "gpt2": _Architecture(read=_gpt2, rules=_rules),
  "llama": _Architecture(
    read=_llama, rules=functools.partial(_rules, interleaved=True)
  ),
  "qwen2": _Architecture(read=_llama, rules=_rules),
  "qwen3": _Architecture(
    read=functools.partial(_llama, qk_norm=True), rules=_rules
  ),
  "gemma3": _Architecture(read=_gemma3, rules=_rules),
  "starcoder2": _Architecture(read=_starcoder2, rules=_rules),
}
