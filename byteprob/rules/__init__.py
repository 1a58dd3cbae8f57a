"""Device: how pieces become tokens, one module a rule.

Each says when a token may follow a node, in two ways that agree: `follow`, for
given tokens while a text is read; and `mask`, for the whole vocabulary at a
row of logits.
"""

import types

from byteprob.rules import bpe, longest_match, unigram
from byteprob.tokenization.tables import Tables

_RULES = {"bpe": bpe, "longest_match": longest_match, "unigram": unigram}


def of(tables: Tables) -> types.ModuleType:
  """The module of a tokenizer's rule."""
  return _RULES[tables.rule]
