"""Host: tensor names of each Hugging Face family, into parameters."""

import dataclasses
from collections.abc import Mapping

from byteprob.models import assemble
from byteprob.models.assemble import Rule

_WEIGHT = Rule(pattern=r"\.weight", targets=("weight",))
_BIAS = Rule(pattern=r"\.bias", targets=("bias",))
_SCALE = Rule(pattern=r"\.weight", targets=("scale",))
_EMBEDDING = Rule(pattern=r"\.weight", targets=("embedding",))
# Gemma's norms multiply by one plus their weight.
_SCALE_FROM_ONE = dataclasses.replace(_SCALE, add=1.0)

_HEAD = assemble.rules({r"lm_head": "head"}, [_WEIGHT])
_ATTENTION = {
  r"layers\.(\d+)\.self_attn\.q_proj": "layer_{}/attention/query",
  r"layers\.(\d+)\.self_attn\.k_proj": "layer_{}/attention/key",
  r"layers\.(\d+)\.self_attn\.v_proj": "layer_{}/attention/value",
  r"layers\.(\d+)\.self_attn\.o_proj": "layer_{}/attention/out",
}
_GATED_MLP = {
  r"layers\.(\d+)\.mlp\.gate_proj": "layer_{}/mlp/gate",
  r"layers\.(\d+)\.mlp\.up_proj": "layer_{}/mlp/up",
  r"layers\.(\d+)\.mlp\.down_proj": "layer_{}/mlp/down",
}
_QK_NORMS = {
  r"layers\.(\d+)\.self_attn\.q_norm": "layer_{}/attention/query_norm",
  r"layers\.(\d+)\.self_attn\.k_norm": "layer_{}/attention/key_norm",
}
_NORMS = {
  r"layers\.(\d+)\.input_layernorm": "layer_{}/attention_norm",
  r"layers\.(\d+)\.post_attention_layernorm": "layer_{}/mlp_norm",
  r"norm": "final_norm",
}
_GEMMA_NORMS = _QK_NORMS | {
  r"layers\.(\d+)\.input_layernorm": "layer_{}/attention_norm",
  r"layers\.(\d+)\.post_attention_layernorm": "layer_{}/post_attention_norm",
  r"layers\.(\d+)\.pre_feedforward_layernorm": "layer_{}/mlp_norm",
  r"layers\.(\d+)\.post_feedforward_layernorm": "layer_{}/post_mlp_norm",
  r"norm": "final_norm",
}
# A table of sines that old checkpoints saved along.
_OLD_BUFFERS = Rule(
  pattern=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)


def _llama_rules(
  linear: Mapping[str, str],
  norms: Mapping[str, str],
  norm_suffixes: list[Rule],
  prefix: str = r"model\.",
) -> tuple[Rule, ...]:
  """The rules of a family that names its modules as Llama does."""
  embed = {"embed_tokens": "embed"}
  return (
    *assemble.rules(embed, [_EMBEDDING], prefix=prefix),
    *assemble.rules(linear, [_WEIGHT, _BIAS], prefix=prefix),
    *assemble.rules(norms, norm_suffixes, prefix=prefix),
    *_HEAD,
    _OLD_BUFFERS,
  )


LLAMA = _llama_rules(_ATTENTION | _GATED_MLP, _NORMS, [_SCALE])
QWEN3 = _llama_rules(_ATTENTION | _GATED_MLP, _NORMS | _QK_NORMS, [_SCALE])
GEMMA3 = _llama_rules(_ATTENTION | _GATED_MLP, _GEMMA_NORMS, [_SCALE_FROM_ONE])
# Within the model for pictures, before and since transformers 4.52.
GEMMA3_MULTIMODAL = (
  *_llama_rules(
    _ATTENTION | _GATED_MLP,
    _GEMMA_NORMS,
    [_SCALE_FROM_ONE],
    prefix=r"(?:language_model\.model|model\.language_model)\.",
  ),
  *assemble.rules({r"language_model\.lm_head": "head"}, [_WEIGHT]),
  Rule(pattern=r"(?:model\.)?(?:vision_tower|multi_modal_projector)\..*"),
)
STARCODER2 = _llama_rules(
  _ATTENTION
  | {
    r"layers\.(\d+)\.mlp\.c_fc": "layer_{}/mlp/up",
    r"layers\.(\d+)\.mlp\.c_proj": "layer_{}/mlp/down",
  },
  _NORMS,
  [_SCALE, _BIAS],
)


def _gpt2_rules() -> tuple[Rule, ...]:
  """GPT-2's: weights are `[in, out]`, and three are one."""
  prefix = r"(?:transformer\.)?"
  qkv = [f"layer_{{0}}/attention/{n}" for n in ("query", "key", "value")]
  linear = {
    r"h\.(\d+)\.attn\.c_proj": "layer_{}/attention/out",
    r"h\.(\d+)\.mlp\.c_fc": "layer_{}/mlp/up",
    r"h\.(\d+)\.mlp\.c_proj": "layer_{}/mlp/down",
  }
  norms = {
    r"h\.(\d+)\.ln_1": "layer_{}/attention_norm",
    r"h\.(\d+)\.ln_2": "layer_{}/mlp_norm",
    r"ln_f": "final_norm",
  }
  weight = dataclasses.replace(_WEIGHT, transpose=True)
  tables = {"wte": "embed", "wpe": "position"}
  return (
    *assemble.rules(tables, [_EMBEDDING], prefix=prefix),
    *assemble.rules(linear, [weight, _BIAS], prefix=prefix),
    *assemble.rules(norms, [_SCALE, _BIAS], prefix=prefix),
    *(
      dataclasses.replace(
        rule,
        pattern=prefix + r"h\.(\d+)\.attn\.c_attn" + rule.pattern,
        targets=tuple(f"{path}/{rule.targets[0]}" for path in qkv),
      )
      for rule in (weight, _BIAS)
    ),
    # The causal mask, saved along by old versions.
    Rule(pattern=prefix + r"h\.\d+\.attn\.(?:masked_)?bias"),
    *_HEAD,
  )


GPT2 = _gpt2_rules()
