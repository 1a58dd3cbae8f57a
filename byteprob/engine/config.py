"""Host: what the engine's programs are compiled for."""

import dataclasses

from byteprob.tokenization.tables import Tables
from byteprob.types import Extend, InitCache, Model

WORD = 32
"""Slots of one word of a packed attention mask."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
  """Sizes of one model's state; together with the batch, all of its shapes.

  Attributes:
    extend: the model.
    context_length: see `Model`.
    capacity: `S`, slots of the KV cache; a multiple of 32.
    max_frontier: `W`, frontier entries of a text.
    max_states: `H`, pre-tokenizer states of one entry.
    chunk_bytes: bytes that `read` takes between two looks at the model.
    chunk_nodes: new nodes that it keeps meanwhile.
    chunk_rows: `R`, rows of one of its model calls.
    pair_chunk: token pairs that BPE's rule checks at a time.
    trust_model: skip the mask of what the tokenizer cannot write; see
      `lemma.rows`.
    differentiable: loops over what depends on the parameters have a fixed
      number of steps, so that `jax.grad` goes through them; slower.
    max_new_nodes: model calls of one `step` at most, where their number is
      fixed.
    init_cache: the model's; None if `engine.init` is never called.
  """

  extend: Extend
  context_length: int
  capacity: int
  max_states: int
  max_frontier: int = 32
  chunk_bytes: int = 128
  chunk_nodes: int = 128
  chunk_rows: int = 32
  pair_chunk: int = 8
  trust_model: bool = False
  differentiable: bool = False
  max_new_nodes: int = 4
  init_cache: InitCache | None = None

  def __post_init__(self):
    """Checks the sizes.

    Raises:
      ValueError: they contradict each other.
    """
    if self.capacity % WORD or self.capacity <= 0:
      raise ValueError(f"capacity must be a multiple of 32: {self.capacity}")
    if self.chunk_nodes < self.max_frontier:
      raise ValueError("chunk_nodes must be at least max_frontier")

  @classmethod
  def of(cls, model: Model, tables: Tables, **sizes) -> "EngineConfig":
    """The config of a model and its tokenizer.

    Args:
      model: the model.
      tables: its tokenizer.
      **sizes: `capacity`, and others that shall not be the default.
    """
    return cls(
      **{"max_states": tables.hypotheses, **sizes},
      extend=model.extend,
      init_cache=model.init_cache,
      context_length=model.context_length,
    )
