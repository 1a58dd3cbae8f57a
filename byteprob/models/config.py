"""Device: the shape of a decoder, as one static record for every family."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
  """Rotary position embedding, half-split (the Hugging Face convention).

  Pair `i` of a head of `D` dimensions, `(x[i], x[i + D/2])`, turns by
  `theta ** (-2 i / D) / factors[i]` radians a position.

  Attributes:
    theta: the base of the geometric series of frequencies.
    factors: `D/2` divisors of the frequencies, or `()` for none: every kind
      of static frequency scaling comes down to these.
  """

  theta: float
  factors: tuple[float, ...] = ()

  def __post_init__(self):
    """Raises `ValueError` for what gives no finite frequencies."""
    if not 1 <= self.theta < math.inf:
      raise ValueError(f"the base of rotary frequencies is {self.theta}")
    if not all(0 < factor < math.inf for factor in self.factors):
      raise ValueError("a rotary factor is not a finite number above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
  """Settings of one layer; the layers of a decoder may differ in them.

  Attributes:
    window: a row attends to rows less than `window` positions before it, and
      to itself; `None` for all of them.
    rope: rotary positions of queries and keys, or `None`.
  """

  window: int | None = None
  rope: Rope | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """A decoder-only transformer: GPT-2, Llama, Qwen, Gemma 3, StarCoder2.

  Hashable, hence usable as a static argument of `jax.jit`.

  Attributes:
    vocab_size: `V`, rows of the embedding.
    context_length: the largest number of rows on one path.
    width: size of the residual stream.
    heads: query heads.
    kv_heads: key and value heads; divides `heads`.
    head_dim: size of one head.
    mlp_width: size of the hidden layer of the feed-forward block.
    layers: one entry per layer.
    norm: `"rms"`, or `"layer"` (with a bias, the mean taken out).
    norm_eps: added to the variance.
    sandwich_norm: also normalise what each block adds to the stream.
    qk_norm: RMS-normalise each head's queries and keys before rotation.
    qkv_bias: the query, key and value projections have a bias.
    out_bias: the output projection of the attention has a bias.
    mlp_bias: the projections of the feed-forward block have a bias.
    activation: the feed-forward block's; GELUs are `"gelu"` (exact) and
      `"gelu_tanh"`.
    gated_mlp: `down(act(gate(x)) * up(x))` rather than `down(act(up(x)))`.
    learned_positions: add a learned embedding of the position.
    tied: the embedding is also the output matrix.
    embedding_scale: multiplies the embeddings.
    attention_scale: multiplies the attention scores.
    attention_softcap: `c * tanh(scores / c)`, or `None`.
    logit_softcap: `c * tanh(logits / c)`, or `None`.
    precision: of every matrix product, as in `jax.lax.Precision`. The default
      makes float32 mean float32 on every kind of device.
  """

  vocab_size: int
  context_length: int
  width: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  layers: tuple[Layer, ...]
  norm: Literal["rms", "layer"] = "rms"
  norm_eps: float = 1e-6
  sandwich_norm: bool = False
  qk_norm: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
  gated_mlp: bool = True
  learned_positions: bool = False
  tied: bool = False
  embedding_scale: float = 1.0
  attention_scale: float
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  precision: Literal["default", "high", "highest"] = "highest"

  def __post_init__(self):
    """Raises `ValueError` for sizes that contradict each other."""
    if self.heads % self.kv_heads:
      raise ValueError(
        f"{self.heads} query heads cannot share {self.kv_heads} key heads"
      )
    for rope in {layer.rope for layer in self.layers if layer.rope}:
      if self.head_dim % 2:
        raise ValueError(f"head_dim is {self.head_dim}, want an even number")
      if len(rope.factors) not in (0, self.head_dim // 2):
        raise ValueError(
          f"{len(rope.factors)} rotary factors for heads of {self.head_dim}: "
          f"want {self.head_dim // 2}"
        )


def frequencies(rope: Rope, head_dim: int) -> tuple[float, ...]:
  """The `head_dim / 2` angles, in radians, of one step of position."""
  half = head_dim // 2
  factors = rope.factors or (1.0,) * half
  return tuple(
    rope.theta ** (-2 * i / head_dim) / factors[i] for i in range(half)
  )


def linear_factors(head_dim: int, factor: float) -> tuple[float, ...]:
  """Rotary factors of `rope_type: "linear"`: all positions divided alike."""
  return (float(factor),) * (head_dim // 2)


def llama3_factors(
  head_dim: int,
  *,
  theta: float,
  factor: float,
  low_freq_factor: float,
  high_freq_factor: float,
  original_context: int,
) -> tuple[float, ...]:
  """Rotary factors of `rope_type: "llama3"`.

  Waves that turn more than `high_freq_factor` times in `original_context`
  positions stay, those that turn less than `low_freq_factor` times are slowed
  by `factor`, and those between are interpolated, linearly in the frequency.
  """
  factors = []
  for frequency in frequencies(Rope(theta=theta), head_dim):
    turns = original_context * frequency / (2 * math.pi)
    share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    share = min(max(share, 0.0), 1.0)
    factors.append(1 / ((1 - share) / factor + share))
  return tuple(factors)
