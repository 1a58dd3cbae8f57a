"""Host: what a checkpoint declares beside its network."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
  """Metadata that a checkpoint declares beside its network.

  Attributes:
    family: `model_type` of a Hugging Face config, architecture of a GGUF.
    bos_id: the token that begins a text, if one is declared.
    eos_ids: the tokens that end a text, in the order declared.
  """

  family: str
  bos_id: int | None
  eos_ids: tuple[int, ...]
