"""Host: SentencePiece's pieces and scores as a `TokenizerSpec`.

A SentencePiece BPE model has no merges: it joins the two neighbours whose
joint piece scores best, wherever that piece comes from, the leftmost on a
tie. So each way of cutting a piece in two is a merge, ranked by its score.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from byteprob.errors import CheckpointError, UnsupportedTokenizerError
from byteprob.tokenization import bpe
from byteprob.tokenization.spec import SPACE, Added, TokenizerSpec


def bpe_from_scores(
  tokens: Sequence[str],
  scores: np.ndarray,
  *,
  normal: np.ndarray,
  user_defined: np.ndarray,
  byte: np.ndarray,
  prefix: bool,
  special: Mapping[str, int],
  start: tuple[int, ...],
  end: tuple[int, ...],
) -> TokenizerSpec:
  """The specification of a SentencePiece BPE model.

  Args:
    tokens: the pieces, by id.
    scores: `float[V]`.
    normal, user_defined, byte: `bool[V]` what each piece is.
    prefix: a space is put before the text.
    special, start, end: see `TokenizerSpec`.
  """
  if len(scores) != len(tokens):
    raise CheckpointError(
      f"The tokenizer has {len(tokens)} pieces and {len(scores)} scores."
    )
  added = user_tokens(tokens, user_defined, prefix)
  spelled = spell(tokens, normal)
  for token in added:
    spelled[token.id] = token.text.encode()
  return TokenizerSpec(
    rule="bpe",
    tokens=tuple(spelled),
    char_level=True,
    fallback=byte_tokens(tokens, byte),
    merges=_merges(tokens, scores, normal),
    special=special,
    added=added,
    escapes_space=True,
    prefix="always" if prefix else "",
    start=start,
    end=end,
  )


def spell(tokens: Sequence[str], plain: np.ndarray) -> list[bytes | None]:
  """Bytes of the pieces that are text, None for the others.

  A piece with a plain space never occurs: the text has none left.
  """
  return [
    token.replace(SPACE, " ").encode() or None
    if own and " " not in token
    else None
    for token, own in zip(tokens, plain, strict=True)
  ]


def byte_tokens(tokens: Sequence[str], byte: np.ndarray) -> dict[int, int]:
  """Ids of the byte tokens by byte: all of them, or none."""
  found: dict[int, int] = {}
  for id_ in np.flatnonzero(byte):
    try:
      found[int(tokens[id_].removeprefix("<0x").removesuffix(">"), 16)] = int(
        id_
      )
    except ValueError:
      raise CheckpointError(
        f"The byte token {tokens[id_]!r} names no byte."
      ) from None
  if found and sorted(found) != list(range(256)):
    raise UnsupportedTokenizerError(
      f"This tokenizer falls back to bytes and lacks {256 - len(found)} of"
      " them, which byteprob cannot compile exactly."
    )
  return found


def user_tokens(
  tokens: Sequence[str], user_defined: np.ndarray, prefix: bool
) -> tuple[Added, ...]:
  """User-defined pieces: cut out of the text before all else."""
  added = tuple(
    Added(id=int(id_), text=tokens[id_].replace(SPACE, " "), normalized=False)
    for id_ in np.flatnonzero(user_defined)
  )
  if added and prefix:
    raise UnsupportedTokenizerError(
      f"This tokenizer has the user-defined piece {added[0].text!r} and puts a"
      " space before the text, which byteprob cannot compile exactly."
    )
  return added


def _merges(tokens, scores, plain) -> bpe.Merges:
  """All ways of cutting a piece in two pieces."""
  ids = {token: id_ for id_, token in enumerate(tokens) if plain[id_]}
  rows = [
    (ids[token[:at]], ids[token[at:]], id_)
    for token, id_ in ids.items()
    for at in range(1, len(token))
    if token[:at] in ids and token[at:] in ids
  ]
  left, right, whole = np.array(rows, np.int64).reshape(-1, 3).T
  _, rank = np.unique(-scores[whole], return_inverse=True)
  return bpe.Merges(left=left, right=right, whole=whole, rank=rank)


def unigram_from_scores(
  tokens: Sequence[str],
  scores: np.ndarray,
  *,
  normal: np.ndarray,
  user_defined: np.ndarray,
  byte: np.ndarray,
  prefix: bool,
  special: Mapping[str, int],
  start: tuple[int, ...],
  end: tuple[int, ...],
) -> TokenizerSpec:
  """The specification of a SentencePiece unigram model; see above."""
  if user_defined.any():
    raise UnsupportedTokenizerError(
      "This unigram tokenizer has user-defined pieces, which byteprob cannot"
      " compile exactly."
    )
  return TokenizerSpec(
    rule="unigram",
    tokens=tuple(spell(tokens, normal)),
    char_level=True,
    fallback=byte_tokens(tokens, byte),
    scores=scores,
    special=special,
    escapes_space=True,
    prefix="always" if prefix else "",
    start=start,
    end=end,
  )
