"""Exact byte-level probabilities from tokenized language models."""

from byteprob import infill
from byteprob.errors import (
  ByteprobError,
  CheckpointError,
  ConstraintError,
  DownloadError,
  PromptError,
  UnsupportedTokenizerError,
)
from byteprob.lm import ByteLM, load
from byteprob.scoring import list_nodes as nodes
from byteprob.types import EOS

__all__ = [
  "EOS",
  "ByteLM",
  "ByteprobError",
  "CheckpointError",
  "ConstraintError",
  "DownloadError",
  "PromptError",
  "UnsupportedTokenizerError",
  "infill",
  "load",
  "nodes",
]
