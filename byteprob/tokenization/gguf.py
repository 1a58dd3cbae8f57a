"""Host: the tokenizer inside a GGUF file as a `TokenizerSpec`.

GGUF keeps a tokenizer's vocabulary but only a *name* for its pre-tokenizer
(`tokenizer.ggml.pre`). Each name that stands here means what the original
tokenizer of those models does; any other is an error that names it. A file may
keep the original's `tokenizer.json` as a whole beside that, which then counts.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from byteprob.errors import CheckpointError, UnsupportedTokenizerError
from byteprob.models.gguf_file import read_gguf
from byteprob.tokenization import bpe, charclass, huggingface, pieces
from byteprob.tokenization.spec import (
  GPT2_SPLIT,
  Added,
  Split,
  TokenizerSpec,
  byte_alphabet,
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = (
  r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)

_DIGITS = Split(pattern=charclass.DIGITS, named=True)
_GPT2 = Split(pattern=GPT2_SPLIT)
_LLAMA3 = Split(pattern=rf"{_WORDS}|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_REST}")
_QWEN2 = Split(pattern=rf"{_WORDS}|\p{{N}}|{_PUNCTUATION}|{_REST}")
_O200K = Split(
  pattern=(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
  )
)
_DEEPSEEK3 = (
  Split(pattern=r"\p{N}{1,3}"),
  Split(pattern="[一-龥\u3040-ゟ゠-ヿ]+"),
  Split(
    pattern=(
      r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
      r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
      rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_REST}"
    )
  ),
)

# Splits, NFC, ignore_merges.
_PRE: Mapping[str, tuple[tuple[Split, ...], bool, bool]] = {
  "gpt-2": ((_GPT2,), False, False),
  "smollm": ((_DIGITS, _GPT2), False, False),
  "starcoder": ((_DIGITS, _GPT2), False, False),
  "refact": ((_DIGITS, _GPT2), False, False),
  "llama-bpe": ((_LLAMA3,), False, True),
  "llama3": ((_LLAMA3,), False, True),
  "llama-v3": ((_LLAMA3,), False, True),
  "qwen2": ((_QWEN2,), True, False),
  "gpt-4o": ((_O200K,), False, False),
  "deepseek-v3": (_DEEPSEEK3, False, False),
}

WHOLE = "tokenizer.huggingface.json"
"""The key of a whole `tokenizer.json`, of the GGUF specification."""

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


def read(path: str | os.PathLike[str]) -> TokenizerSpec:
  """Reads the tokenizer in a GGUF file.

  Raises:
    CheckpointError: the file is broken or holds no tokenizer.
    UnsupportedTokenizerError: a component cannot be compiled exactly.
  """
  metadata = read_gguf(path).metadata
  try:
    return from_metadata(metadata)
  except KeyError as error:
    raise CheckpointError(
      f"{path} has no {error.args[0]}; byteprob needs a GGUF file that holds"
      " its tokenizer."
    ) from error


def from_metadata(metadata: Mapping[str, Any]) -> TokenizerSpec:
  """The specification in a GGUF file's metadata."""
  if WHOLE in metadata:
    return _whole(metadata)
  model = metadata["tokenizer.ggml.model"]
  tokens = _strings(metadata, "tokens")
  kinds = np.full(len(tokens), _NORMAL)
  if "tokenizer.ggml.token_type" in metadata:
    kinds = _numbers(metadata, "token_type")
  if len(kinds) != len(tokens):
    raise CheckpointError(
      f"The GGUF file has {len(tokens)} tokens and {len(kinds)} token types."
    )
  special = {
    tokens[id_]: int(id_)
    for id_ in np.flatnonzero((kinds == _CONTROL) | (kinds == _UNKNOWN))
  }
  common = {
    "special": special,
    "end": _ids(metadata, len(tokens), "eos", "eot"),
  }
  if model == "gpt2":
    return _byte_level(metadata, tokens, kinds, common)
  if model == "llama":
    start = _ids(metadata, len(tokens), "bos")
    return pieces.bpe_from_scores(
      tokens,
      _numbers(metadata, "scores").astype(np.float64),
      normal=kinds == _NORMAL,
      user_defined=kinds == _USER_DEFINED,
      byte=kinds == _BYTE,
      prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
      start=start if metadata.get("tokenizer.ggml.add_bos_token", True) else (),
      **common,
    )
  raise UnsupportedTokenizerError(
    f"The GGUF file's tokenizer model {model!r} is not supported; load the"
    " model from its Hugging Face directory instead."
  )


def _whole(metadata: Mapping[str, Any]) -> TokenizerSpec:
  text = metadata[WHOLE]
  if not isinstance(text, str):
    raise CheckpointError(f"The GGUF file's {WHOLE} is no text.")
  size = len(_strings(metadata, "tokens"))
  adds_start = metadata.get("tokenizer.ggml.add_bos_token", False)
  configs = {
    "eos": _ids(metadata, size, "eos", "eot"),
    "bos": _ids(metadata, size, "bos") if adds_start else (),
  }
  return huggingface.parse(text, configs, f"The GGUF file's {WHOLE}")


def _byte_level(metadata, tokens, kinds, common) -> TokenizerSpec:
  name = metadata.get("tokenizer.ggml.pre", "(none)")
  if not isinstance(name, str) or name not in _PRE:
    raise UnsupportedTokenizerError(
      f"The GGUF file names the pre-tokenizer {name!r}, which byteprob does"
      f" not know ({', '.join(sorted(_PRE))}); load the model from its"
      " Hugging Face directory instead."
    )
  splits, nfc, ignore_merges = _PRE[name]
  alphabet = byte_alphabet()
  spelled: list[bytes | None] = []
  added = []
  for id_, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
    if kind == _USER_DEFINED:
      added.append(Added(id=id_, text=token, normalized=False))
      spelled.append(token.encode())
    elif kind == _NORMAL and all(char in alphabet for char in token):
      spelled.append(bytes(alphabet[char] for char in token) or None)
    else:
      spelled.append(None)
  ids = {token: id_ for id_, token in enumerate(tokens)}
  merges = _strings(metadata, "merges")
  try:
    pairs = [
      (ids[left], ids[right], ids[left + right])
      for left, right in (merge.split(" ") for merge in merges)
    ]
  except (KeyError, ValueError) as error:
    raise CheckpointError(
      f"The GGUF file's merges are broken: {error}; fetch it again."
    ) from error
  columns = np.array(pairs, np.int64).reshape(-1, 3).T
  adds_start = metadata.get("tokenizer.ggml.add_bos_token", ignore_merges)
  return TokenizerSpec(
    rule="bpe",
    tokens=tuple(spelled),
    char_level=False,
    merges=bpe.Merges(
      left=columns[0],
      right=columns[1],
      whole=columns[2],
      rank=np.arange(len(pairs)),
    ),
    ignore_merges=ignore_merges,
    splits=splits,
    nfc=nfc,
    added=tuple(added),
    start=_ids(metadata, len(tokens), "bos") if adds_start else (),
    **common,
  )


def _strings(metadata, name: str) -> list[str]:
  """A list of strings."""
  found = metadata[f"tokenizer.ggml.{name}"]
  if not isinstance(found, list):
    raise CheckpointError(
      f"The GGUF file's tokenizer.ggml.{name} are not strings; fetch it again."
    )
  return found


def _numbers(metadata, name: str) -> np.ndarray:
  """An array of numbers."""
  found = metadata[f"tokenizer.ggml.{name}"]
  if not isinstance(found, np.ndarray):
    raise CheckpointError(
      f"The GGUF file's tokenizer.ggml.{name} are not numbers; fetch it again."
    )
  return found


def _ids(metadata, size: int, *names: str) -> tuple[int, ...]:
  """Ids of the tokens of these names, each once."""
  keys = [f"tokenizer.ggml.{name}_token_id" for name in names]
  found = {key: metadata[key] for key in keys if key in metadata}
  for key, id_ in found.items():
    if not isinstance(id_, int) or not 0 <= id_ < size:
      raise CheckpointError(
        f"The GGUF file's {key} is {id_!r}, not one of its {size} tokens;"
        " fetch it again."
      )
  return tuple(dict.fromkeys(found.values()))
