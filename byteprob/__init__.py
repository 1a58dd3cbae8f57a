"""Exact byte-level probabilities from tokenized language models."""

from byteprob import infill
from byteprob.conversion import convert
from byteprob.ensemble import Ensemble
from byteprob.errors import (
  ByteprobError,
  CheckpointError,
  ConstraintError,
  DownloadError,
  MeshError,
  PromptError,
  UnsupportedTokenizerError,
)
from byteprob.lm import ByteLM, load
from byteprob.mesh import make_mesh
from byteprob.scoring import list_nodes as nodes
from byteprob.types import EOS

__version__ = "0.2.0"

__all__ = [
  "EOS",
  "ByteLM",
  "ByteprobError",
  "CheckpointError",
  "ConstraintError",
  "DownloadError",
  "Ensemble",
  "MeshError",
  "PromptError",
  "UnsupportedTokenizerError",
  "convert",
  "infill",
  "load",
  "make_mesh",
  "nodes",
]
