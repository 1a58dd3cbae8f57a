"""Host: a Hugging Face `tokenizer.json` as a `TokenizerSpec`.

Every component and every option is either understood or refused by name.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from byteprob.errors import (
  ByteprobError,
  CheckpointError,
  UnsupportedTokenizerError,
)
from byteprob.tokenization import bpe, charclass
from byteprob.tokenization.spec import (
  CONFIGS,
  GPT2_SPLIT,
  SPACE,
  Added,
  Split,
  TokenizerSpec,
  byte_alphabet,
)

Json = Mapping[str, Any]


def read(path: str | os.PathLike[str]) -> TokenizerSpec:
  """Reads a `tokenizer.json`, and the configs beside it for its end tokens.

  Args:
    path: the file, or the directory that holds it.

  Raises:
    CheckpointError: no such file, or not what it should be.
    UnsupportedTokenizerError: a component cannot be compiled exactly.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / "tokenizer.json"
  return _checked(_json(path), _configs(path.parent), str(path))


def parse(text: str, configs: Json, where: str) -> TokenizerSpec:
  """Reads the text of a `tokenizer.json` that is kept elsewhere.

  Args:
    text: the file's contents.
    configs: see `from_json`.
    where: what to call it in errors.

  Raises:
    CheckpointError: it is not what it should be.
    UnsupportedTokenizerError: a component cannot be compiled exactly.
  """
  return _checked(_parsed(text, where), configs, where)


def _checked(data: Json, configs: Json, where: str) -> TokenizerSpec:
  try:
    return from_json(data, configs=configs)
  except ByteprobError:
    raise
  # What is not there, or of another type than it should be.
  except (LookupError, TypeError, AttributeError, ValueError) as error:
    raise CheckpointError(
      f"{where} is not a tokenizer that the tokenizers library wrote:"
      f" {type(error).__name__} {error}."
    ) from error


def from_json(data: Json, configs: Json | None = None) -> TokenizerSpec:
  """The specification in a parsed `tokenizer.json`.

  Args:
    data: the file's contents.
    configs: `eos` (ids or texts of end tokens) and `bos` (ids or texts put
      before every text, where `tokenizer.json` itself says nothing).
  """
  configs = configs or {}
  _known(
    data,
    "the tokenizer",
    "version truncation padding added_tokens normalizer pre_tokenizer"
    " post_processor decoder model",
  )
  reader = _Reader(data)
  reader.normalizer(data.get("normalizer"))
  reader.pre_tokenizer(data.get("pre_tokenizer"), first=True)
  spec = reader.model(data["model"])
  names = {t["content"]: t["id"] for t in data.get("added_tokens") or ()}
  names |= spec.pop("vocabulary")
  start = _start(data.get("post_processor"), names)
  if start is None:
    start = _ids(configs.get("bos", ()), names)
  return TokenizerSpec(
    **spec,
    splits=tuple(reader.splits),
    nfc=reader.nfc,
    escapes_space=reader.escapes,
    prefix=reader.prefix,
    prefix_once=reader.prefix_once,
    start=start,
    end=_ids(configs.get("eos", ()), names),
  )


class _Reader:
  """Collects what the components say; they depend on one another."""

  def __init__(self, data: Json):
    self.data = data
    self.nfc = False
    self.escapes = False
    self.prefix = ""
    self.prefix_once = False
    self.byte_level = False
    self.splits: list[Split] = []

  def normalizer(self, part: Json | None) -> None:
    """Reads a normalizer."""
    if part is None:
      return
    kind = part["type"]
    if kind == "Sequence":
      for each in part["normalizers"]:
        self.normalizer(each)
    elif kind == "NFC":
      self.nfc = True
    elif kind == "Prepend" and part["prepend"] == SPACE:
      if self.escapes:
        raise _unsupported("the normalizer 'Prepend' after 'Replace'")
      self.prefix = "always"
    elif (
      kind == "Replace"
      and part["pattern"] == {"String": " "}
      and part["content"] == SPACE
    ):
      self.escapes = True
    else:
      raise _unsupported(f"the normalizer {json.dumps(part)[:200]}")

  def pre_tokenizer(self, part: Json | None, first: bool) -> None:
    """Reads a pre-tokenizer; `first`: nothing has been split yet."""
    if part is None:
      return
    kind = part["type"]
    if self.byte_level:
      raise _unsupported(f"the pre-tokenizer {kind!r} after 'ByteLevel'")
    if kind == "Sequence":
      for k, each in enumerate(part["pretokenizers"]):
        self.pre_tokenizer(each, first and k == 0)
    elif kind == "ByteLevel":
      self._byte_level(part, first)
    elif kind == "Split":
      self.splits.append(_split(part))
    elif kind == "Digits":
      alone = part.get("individual_digits", False)
      self.splits.append(
        Split(
          pattern=charclass.DIGITS,
          behavior="isolated" if alone else "contiguous",
          named=True,
        )
      )
    elif kind == "Punctuation":
      behavior = _behavior(part.get("behavior", "Isolated"))
      if behavior == "removed":
        raise _unsupported("the pre-tokenizer 'Punctuation' that removes")
      self.splits.append(
        Split(pattern=charclass.PUNCTUATION, behavior=behavior, named=True)
      )
    elif kind == "Metaspace":
      self._metaspace(part, first)
    else:
      raise _unsupported(f"the pre-tokenizer {kind!r}")

  def _byte_level(self, part: Json, first: bool) -> None:
    self.byte_level = True
    if part.get("add_prefix_space", True):
      if not first:
        raise _unsupported(
          "'ByteLevel' with add_prefix_space inside a sequence"
        )
      self.prefix = "unless_space"
    if part.get("use_regex", True):
      self.splits.append(Split(pattern=GPT2_SPLIT))

  def _metaspace(self, part: Json, first: bool) -> None:
    if part.get("replacement", SPACE) != SPACE:
      raise _unsupported(f"'Metaspace' with {part['replacement']!r}")
    scheme = part.get("prepend_scheme")
    if scheme is None:
      scheme = "always" if part.get("add_prefix_space", True) else "never"
    if scheme != "never":
      if not first or self.prefix:
        raise _unsupported("a 'Metaspace' that prepends to what is prepended")
      self.prefix = "unless_space"
      self.prefix_once = scheme == "first"
    self.escapes = True
    if part.get("split", True):
      self.splits.append(
        Split(pattern=SPACE, behavior="merged_with_next", literal=True)
      )

  def model(self, model: Json) -> dict[str, Any]:
    """Reads the model and the added tokens."""
    kind = model.get("type") or _guess_model(model)
    vocabulary = model["vocab"]
    if kind == "Unigram":
      vocabulary = {piece: k for k, (piece, _) in enumerate(vocabulary)}
    elif kind not in ("BPE", "WordPiece"):
      raise _unsupported(f"the model {kind!r}")
    added = self.data.get("added_tokens") or ()
    _check_ids([*vocabulary.values(), *(token["id"] for token in added)])
    size = 1 + max([*vocabulary.values(), *(token["id"] for token in added)])
    special = {t["content"]: t["id"] for t in added if t["special"]}
    byte_fallback = bool(model.get("byte_fallback"))
    inside = None
    spelled = vocabulary
    if kind == "WordPiece":
      mark = model.get("continuing_subword_prefix", "##")
      if mark:
        inside = frozenset(
          id_ for piece, id_ in vocabulary.items() if piece.startswith(mark)
        )
        spelled = {
          (p.removeprefix(mark), p.startswith(mark)): id_
          for p, id_ in vocabulary.items()
        }
    tokens: list[bytes | None] = [None] * size
    fallback: dict[int, int] = {}
    hidden = set(special.values())
    if (unknown := _unknown(model, kind)) is not None:
      hidden.add(unknown if kind == "Unigram" else vocabulary.get(unknown))
    for piece, id_ in spelled.items():
      piece = piece[0] if isinstance(piece, tuple) else piece
      if id_ in hidden or not piece:
        continue
      byte = _byte_token(piece) if byte_fallback else None
      if byte is not None:
        fallback[byte] = id_
      else:
        tokens[id_] = self._spell(piece)
    if 0 < len(fallback) < 256:
      # The library falls back only if it has every byte of a character;
      # with some missing, which characters it spells is left to chance.
      raise _unsupported(f"a byte fallback that lacks {256 - len(fallback)}")
    spec: dict[str, Any] = {
      "tokens": None,
      "char_level": not self.byte_level,
      "fallback": fallback,
      "special": special,
      "inside": inside,
      "mark": (self._spell(mark) or b"") if inside is not None else b"",
      "added": tuple(self._added(added, tokens)),
      "vocabulary": vocabulary,
    }
    spec |= {
      "BPE": _bpe, "Unigram": _unigram, "WordPiece": _longest_match
    }[kind](model)  # fmt: skip
    spec["tokens"] = tuple(tokens)
    return spec

  def _spell(self, piece: str) -> bytes | None:
    """The bytes of a piece in the working text, None if it has none."""
    if self.byte_level:
      alphabet = byte_alphabet()
      if not all(char in alphabet for char in piece):
        return None
      return bytes(alphabet[char] for char in piece)
    if self.escapes:
      if " " in piece:
        return None  # the text has none left by then
      piece = piece.replace(SPACE, " ")
    return piece.encode("utf-8", "surrogatepass")

  def _added(self, added, tokens):
    for token in added:
      if token["special"]:
        continue
      if self.prefix:
        raise _unsupported(
          f"the non-special added token {token['content']!r} in a tokenizer"
          " that puts a space before the text"
        )
      for flag in ("single_word", "lstrip", "rstrip"):
        if token.get(flag):
          raise _unsupported(
            f"the added token {token['content']!r} with {flag!r}"
          )
      text = token["content"]
      if not text:
        raise _unsupported("an added token without text")
      if self.escapes:
        if token["normalized"]:
          text = text.replace(SPACE, " ")
        elif SPACE in text:
          # It matches the raw text, where a SPACE never stands: the prompt's
          # own are taken for spaces.
          continue
      tokens[token["id"]] = text.encode()
      yield Added(id=token["id"], text=text, normalized=token["normalized"])


def _bpe(model: Json) -> dict[str, Any]:
  _known(
    model,
    "the BPE model",
    "type dropout unk_token continuing_subword_prefix end_of_word_suffix"
    " fuse_unk byte_fallback ignore_merges vocab merges",
  )
  if model.get("dropout"):
    raise _unsupported("BPE with dropout")
  for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
    if model.get(affix):
      raise _unsupported(f"BPE with {affix} {model[affix]!r}")
  vocabulary = model["vocab"]
  pairs = [
    pair.split(" ") if isinstance(pair, str) else pair
    for pair in model["merges"]
  ]
  try:
    ids = [
      (vocabulary[left], vocabulary[right], vocabulary[left + right])
      for left, right in pairs
    ]
  except (KeyError, ValueError) as error:
    raise CheckpointError(
      f"The tokenizer's merges name what is not in its vocabulary: {error}."
    ) from error
  columns = np.array(ids, np.int64).reshape(-1, 3).T
  return {
    "rule": "bpe",
    "ignore_merges": bool(model.get("ignore_merges")),
    "merges": bpe.Merges(
      left=columns[0],
      right=columns[1],
      whole=columns[2],
      rank=np.arange(len(ids)),
    ),
  }


def _unigram(model: Json) -> dict[str, Any]:
  _known(model, "the Unigram model", "type unk_id vocab byte_fallback")
  return {
    "rule": "unigram",
    "scores": np.array([score for _, score in model["vocab"]], np.float64),
  }


def _longest_match(model: Json) -> dict[str, Any]:
  _known(
    model,
    "the WordPiece model",
    "type unk_token continuing_subword_prefix max_input_chars_per_word vocab",
  )
  limit = model.get("max_input_chars_per_word", 100)
  if limit < 2**20:
    raise _unsupported(
      f"WordPiece with max_input_chars_per_word={limit} (longer words become"
      " one unknown token; set it to 2**20 or more)"
    )
  return {"rule": "longest_match"}


def _unknown(model: Json, kind: str):
  return model.get("unk_id" if kind == "Unigram" else "unk_token")


def _guess_model(model: Json) -> str:
  """Old files do not name their model."""
  if "merges" in model:
    return "BPE"
  return "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def _byte_token(piece: str) -> int | None:
  """The byte of `<0xNN>`."""
  if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
    try:
      return int(piece[3:5], 16)
    except ValueError:
      return None
  return None


def _behavior(name: str) -> str:
  known = {
    "Isolated": "isolated",
    "Contiguous": "contiguous",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
    "Removed": "removed",
  }
  if name not in known:
    raise _unsupported(f"the split behavior {name!r}")
  return known[name]


def _split(part: Json) -> Split:
  _known(part, "a split", "type pattern behavior invert")
  ((kind, pattern),) = part["pattern"].items()
  behavior = _behavior(part["behavior"])
  invert = bool(part.get("invert"))
  if behavior == "removed" and not invert:
    raise _unsupported(f"a split that removes what matches {pattern!r}")
  if kind not in ("Regex", "String"):
    raise _unsupported(f"a split at a {kind!r}")
  return Split(
    pattern=pattern,
    behavior=behavior,
    invert=invert,
    literal=kind == "String",
  )


def _start(part: Json | None, names: Mapping[str, int]):
  """Ids that a post-processor puts before the text, None if it says none."""
  if part is None:
    return None
  kind = part["type"]
  if kind == "Sequence":
    found = [_start(each, names) for each in part["processors"]]
    found = [start for start in found if start is not None]
    return found[-1] if found else None
  if kind == "TemplateProcessing":
    start: list[int] = []
    for item in part["single"]:
      if "Sequence" in item:
        return tuple(start)
      start += part["special_tokens"][item["SpecialToken"]["id"]]["ids"]
    return tuple(start)
  if kind in ("RobertaProcessing", "BertProcessing"):
    return (part["cls"][1],)
  if kind == "ByteLevel":
    return None
  raise _unsupported(f"the post-processor {kind!r}")


def _ids(tokens, names: Mapping[str, int]) -> tuple[int, ...]:
  """Ids of tokens given as ids or texts, in order, each once."""
  found = [names.get(t) if isinstance(t, str) else t for t in tokens]
  return tuple(dict.fromkeys(id_ for id_ in found if id_ is not None))


def _configs(directory: pathlib.Path) -> dict[str, list]:
  """End and start tokens that the files beside a tokenizer name."""
  found: dict[str, list] = {"eos": [], "bos": []}
  *generation, tokenizer = CONFIGS
  for name in generation:
    config = _json(directory / name, optional=True)
    config = config.get("text_config", {}) | config
    ids = config.get("eos_token_id")
    found["eos"] += ids if isinstance(ids, list) else [ids]
  config = _json(directory / tokenizer, optional=True)

  def text(token):
    return token.get("content") if isinstance(token, dict) else token

  found["eos"].append(text(config.get("eos_token")))
  if config.get("add_bos_token"):
    found["bos"].append(text(config.get("bos_token")))
  return {
    key: [token for token in tokens if token is not None]
    for key, tokens in found.items()
  }


def _json(path: pathlib.Path, optional: bool = False) -> Any:
  try:
    text = path.read_text(encoding="utf-8")
  except FileNotFoundError:
    if optional:
      return {}
    raise CheckpointError(
      f"There is no {path.name} in {path.parent}; byteprob needs the"
      " tokenizer's file beside the weights."
    ) from None
  except UnicodeDecodeError as error:
    raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
  return _parsed(text, str(path))


def _parsed(text: str, where: str) -> Any:
  try:
    data = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise CheckpointError(f"{where} is not valid JSON: {error}.") from error
  if not isinstance(data, dict):
    raise CheckpointError(f"{where} does not hold a JSON object.")
  return data


def _check_ids(ids) -> None:
  if not all(isinstance(id_, int) and 0 <= id_ < 2**24 for id_ in ids):
    raise CheckpointError("The tokenizer has token ids that are no ids.")


def _known(part: Json, what: str, keys: str) -> None:
  if unknown := sorted(set(part) - set(keys.split())):
    raise _unsupported(f"{what} with {', '.join(map(repr, unknown))}")


def _unsupported(what: str) -> UnsupportedTokenizerError:
  return UnsupportedTokenizerError(
    f"This tokenizer has {what}, which byteprob cannot compile exactly."
  )
