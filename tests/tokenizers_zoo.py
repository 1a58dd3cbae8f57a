"""Host: tiny tokenizers of every kind.

Each is built with the tokenizers library (or as a SentencePiece model file)
over an alphabet of a few characters, chosen so that what is hard occurs:
white space runs, contractions, digit groups, the paragraph break, characters
of several bytes with tokens that stop inside them.
"""

import dataclasses
import functools
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import oracle
import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

SPACE = "\u2581"

GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
  r"|\s+(?!\S)|\s+"
)
LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
  r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
  r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
  r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
  r"\p{N}{1,3}",
  "[一-龥\u3040-ゟ゠-ヿ]+",
  r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
  r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)

WIDE = ("\u3000", "\u3001", "\u3040", "\u3041")
"""White space, punctuation, nothing, a letter: three bytes of E3, 80, 81."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A tokenizer and what the oracle must know of it.

  Attributes:
    encode: the black box.
    json: its `tokenizer.json`, or None.
    model: its SentencePiece file, or None.
    spelled: bytes of each id in the working text, None for none.
    alphabet: characters that texts are made of.
    texts: texts that must be among those that are tried.
    start, ends: ids before and after a text.
    ahead, prefixed, others: see `oracle.Oracle`.
    many: how many texts to try.
  """

  encode: oracle.Encode
  json: dict | None = None
  model: bytes | None = None
  spelled: tuple[bytes | None, ...]
  alphabet: tuple[str, ...]
  texts: tuple[str, ...] = ()
  start: tuple[int, ...]
  ends: tuple[int, ...]
  ahead: int = 2
  prefixed: bool = False
  others: tuple[str, ...] | None = None
  many: int = 60

  def oracle(self) -> oracle.Oracle:
    """The oracle of this tokenizer."""
    return oracle.Oracle(
      self.encode,
      self.spelled,
      self.alphabet,
      ahead=self.ahead,
      ends=self.ends,
      prefixed=self.prefixed,
      others=self.others,
    )


def visible() -> dict[int, str]:
  """GPT-2's printable stand-in for each byte."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  rest = [byte for byte in range(256) if byte not in plain]
  table = {byte: chr(byte) for byte in plain}
  return table | {byte: chr(256 + k) for k, byte in enumerate(rest)}


def shown(data: bytes | str) -> str:
  """Bytes as byte-level tokenizers write them."""
  table = visible()
  data = data.encode() if isinstance(data, str) else data
  return "".join(table[byte] for byte in data)


Merge = tuple[bytes | str, bytes | str]


def random_merges(
  seed: int, atoms: Sequence[str], count: int, longest: int
) -> list[tuple[str, str]]:
  """Pairs of atoms and of what earlier pairs make, in random order."""
  rng = random.Random(seed)
  tokens, pairs = list(atoms), []
  while len(pairs) < count:
    pair = rng.choice(tokens), rng.choice(tokens)
    if len("".join(pair)) <= longest and pair not in pairs:
      pairs.append(pair)
      if "".join(pair) not in tokens:
        tokens.append("".join(pair))
  rng.shuffle(pairs)
  return pairs


def splits(tokens: Sequence[str]) -> list[tuple[str, str]]:
  """Every way of cutting a token in two tokens; earlier tokens first."""
  known = set(tokens)
  return [
    (token[:at], token[at:])
    for token in tokens
    for at in range(1, len(token))
    if token[:at] in known and token[at:] in known
  ]


def byte_level(
  alphabet: Sequence[str],
  merges: Sequence[Merge],
  pre_tokenizer,
  *,
  atoms: Sequence[int] = (),
  whole: Sequence[str] = (),
  added: Sequence[AddedToken] = (),
  normalizer=None,
  use_regex: bool = False,
  ignore_merges: bool = False,
  **rest,
) -> Entry:
  """A byte-level BPE tokenizer over an alphabet.

  Args:
    alphabet: its characters.
    merges: pairs of bytes, or of texts as they are.
    pre_tokenizer: what stands before `ByteLevel`, None, or a list.
    atoms: bytes that have tokens; those of the alphabet if empty.
    whole: tokens that no merge makes.
    added: added tokens that are not special.
    normalizer: see the tokenizers library.
    use_regex: of `ByteLevel`.
    ignore_merges: see the tokenizers library.
    **rest: see `Entry`.
  """
  bytes_ = sorted(atoms or {b for char in alphabet for b in char.encode()})
  vocab = {shown(bytes([byte])): k for k, byte in enumerate(bytes_)}
  pairs = [(shown(left), shown(right)) for left, right in merges]
  for piece in [left + right for left, right in pairs] + [*map(shown, whole)]:
    vocab.setdefault(piece, len(vocab))
  tokenizer = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=pairs, ignore_merges=ignore_merges)
  )
  parts = pre_tokenizer if isinstance(pre_tokenizer, list) else [pre_tokenizer]
  level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
  parts = [part for part in parts if part is not None] + [level]
  tokenizer.pre_tokenizer = (
    pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
  )
  if normalizer is not None:
    tokenizer.normalizer = normalizer
  back = {char: byte for byte, char in visible().items()}

  def spell(piece: str) -> bytes:
    return bytes(back[char] for char in piece)

  return _entry(tokenizer, spell, added, alphabet=tuple(alphabet), **rest)


def _entry(tokenizer, spell, added=(), **rest) -> Entry:
  """Adds the special tokens; spells the others out."""
  tokenizer.add_tokens(list(added))
  tokenizer.add_special_tokens(["<s>", "</s>"])
  texts = {token.content for token in added}
  spelled = []
  for id_ in range(tokenizer.get_vocab_size()):
    piece = tokenizer.id_to_token(id_)
    if piece in ("<s>", "</s>", "<unk>"):
      spelled.append(None)
    elif piece in texts:
      # A space stands for itself in the working text.
      spelled.append(piece.replace(SPACE, " ").encode())
    else:
      spelled.append(spell(piece))
  rest.setdefault("start", (tokenizer.token_to_id("<s>"),))
  return Entry(
    encode=oracle.library(tokenizer),
    json=json.loads(tokenizer.to_str()),
    spelled=tuple(spelled),
    ends=(tokenizer.token_to_id("</s>"),),
    **rest,
  )


def character_level(
  alphabet: Sequence[str],
  tokens: Sequence[str],
  merges: Sequence[tuple[str, str]],
  *,
  pre_tokenizer=None,
  normalizer=None,
  fallback: bool = False,
  added: Sequence[AddedToken] = (),
  ignore_merges: bool = False,
  **rest,
) -> Entry:
  """A BPE tokenizer over characters, `SPACE` for a space, as SentencePiece's.

  Args:
    alphabet: the characters of texts.
    tokens: the tokens, characters first, without the byte tokens.
    merges: pairs of tokens.
    pre_tokenizer, normalizer: see the tokenizers library.
    fallback: characters that are no tokens are spelled byte by byte.
    added: added tokens that are not special.
    ignore_merges: see the tokenizers library.
    **rest: see `Entry`.
  """
  vocab = {"<unk>": 0}
  if fallback:
    vocab |= {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
  for token in tokens:
    vocab.setdefault(token, len(vocab))
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab=vocab,
      merges=list(merges),
      unk_token="<unk>",
      fuse_unk=True,
      byte_fallback=fallback,
      ignore_merges=ignore_merges,
    )
  )
  if normalizer is not None:
    tokenizer.normalizer = normalizer
  if pre_tokenizer is not None:
    tokenizer.pre_tokenizer = pre_tokenizer

  def spell(piece: str) -> bytes:
    if fallback and piece.startswith("<0x"):
      return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()

  rest.setdefault("others", () if fallback else None)
  rest.setdefault("ahead", 1 if fallback else 2)
  return _entry(tokenizer, spell, added, alphabet=tuple(alphabet), **rest)


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def sentencepiece_file(
  pieces: Sequence[tuple[str, float, int]],
  *,
  prefix: bool = False,
  fallback: bool = False,
  extra_spaces: bool = False,
  escape: bool = True,
  kind: int = 2,
  rules: bytes = b"",
  suffix: bool = False,
) -> bytes:
  """A SentencePiece model file.

  Args:
    pieces: `(text, score, type)` by id; the first three are unk, bos, eos.
    prefix: of the normalizer, `add_dummy_prefix`.
    fallback: of the trainer.
    extra_spaces: of the normalizer, `remove_extra_whitespaces`.
    escape: of the normalizer, `escape_whitespaces`.
    kind: 1 unigram, 2 BPE, 3 word, 4 char.
    rules: the normalizer's compiled rules.
    suffix: of the trainer, `treat_whitespace_as_suffix`.
  """
  data = b""
  for text, score, type_ in pieces:
    piece = _field(1, text.encode()) + _field(2, score) + _field(3, type_)
    data += _field(1, piece)
  trainer = _field(3, kind) + _field(35, int(fallback))
  trainer += _field(24, int(suffix))
  normalizer = _field(1, b"identity") + _field(2, rules)
  normalizer += _field(3, int(prefix)) + _field(4, int(extra_spaces))
  normalizer += _field(5, int(escape))
  return data + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: bytes | float | int) -> bytes:
  """A field of a protocol buffer."""
  if isinstance(value, float):
    return _varint(number << 3 | 5) + struct.pack("<f", value)
  if isinstance(value, int):
    return _varint(number << 3) + _varint(value)
  return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
  found = b""
  while value > 127:
    found += bytes([value & 127 | 128])
    value >>= 7
  return found + bytes([value])


def sentencepiece_entry(
  alphabet: Sequence[str],
  scores: dict[str, float],
  *,
  prefix: bool = False,
  fallback: bool = False,
  user_defined: Sequence[str] = (),
  kind: int = 2,
  **rest,
) -> Entry:
  """A SentencePiece model; its oracle is the sentencepiece library."""
  pieces = [("<unk>", 0.0, UNKNOWN)]
  pieces += [("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
  pieces += [(text, 0.0, USER_DEFINED) for text in user_defined]
  if fallback:
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
  pieces += [(text, score, NORMAL) for text, score in scores.items()]
  model = sentencepiece_file(
    pieces, prefix=prefix, fallback=fallback, kind=kind
  )
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)

  def spell(text: str, type_: int) -> bytes | None:
    if type_ in (UNKNOWN, CONTROL):
      return None
    if type_ == BYTE:
      return bytes([int(text[3:5], 16)])
    return text.replace(SPACE, " ").encode()

  def encode(texts: list[str]) -> list[oracle.Node]:
    return [tuple(ids) for ids in processor.encode(texts, out_type=int)]

  rest.setdefault("others", () if fallback else None)
  rest.setdefault("ahead", 1 if fallback else 2)
  return Entry(
    encode=encode,
    model=model,
    spelled=tuple(spell(text, type_) for text, _, type_ in pieces),
    alphabet=tuple(alphabet),
    start=(1,),
    ends=(2,),
    prefixed=prefix,
    **rest,
  )


def _split(pattern: str, behavior: str = "isolated", invert: bool = False):
  return pre_tokenizers.Split(Regex(pattern), behavior, invert)


_PARAGRAPH = [("\n", "\n"), (" ", " "), ("\n\n", "\n")]

ZOO: dict[str, Callable[[], Entry]] = {}

FEW = {
  "plain",
  "gpt2",
  "whole_pieces",
  "added_twice",
  "prefix_space",
  "gemma",
  "sentencepiece_ties",
  "composed",
  "wordpiece",
  "greedy_lookahead",
  "unigram_lookahead",
}
"""Some of each kind, for the quick tests; the slow ones take the others."""


def every(*more: str) -> list[Any]:
  """Names of the zoo, and more, for `parametrize`: most of them are slow."""
  return [
    name
    if name.split()[0] in FEW
    else pytest.param(name, marks=pytest.mark.slow)
    for name in (*ZOO, *more)
  ]


def _zoo(build: Callable[[], Entry]) -> Callable[[], Entry]:
  ZOO[build.__name__] = functools.cache(build)
  return build


@_zoo
def plain():
  """No pre-tokenizer; tokens that stop inside characters."""
  alphabet = ("a", "b", " ", *WIDE)
  merges = [(b"\xe3", b"\x80"), (b"\x80", b"\x81"), (b"\xe3\x80", b"\x80")]
  merges += [(b"a\xe3", b"\x81")]
  merges += random_merges(1, ["a", "b", " "], 9, 4)
  return byte_level(alphabet, [(b"a", b"\xe3"), *merges], None)


@_zoo
def gpt2():
  """GPT-2's: contractions and the paragraph break."""
  merges = [*_PARAGRAPH, ("'", "s"), (" ", "a"), (" a", "s"), ("l", "l")]
  merges += [("'l", "l"), ("'", "l"), (" ", "'"), ("a", "a"), ("s", "a")]
  return byte_level(
    ("a", "l", "s", " ", "\n", "'"),
    merges,
    None,
    use_regex=True,
    texts=("a\n\na", "a's a", "a'll", "a'la", "a  \n a", "a'l's", "  's"),
  )


@_zoo
def gpt2_split():
  """GPT-2's as a split of its own, with random merges."""
  alphabet = ("a", "1", " ", "\n", "'", "s")
  return byte_level(
    alphabet, random_merges(5, alphabet, 18, 4), _split(GPT2), many=64
  )


@_zoo
def smollm2():
  """SmolLM2's: digits one by one, then GPT-2's; most bytes are missing."""
  merges = [*_PARAGRAPH, (" ", "a"), ("1", "1"), (" ", "1"), ("a", "a")]
  merges += [("2", "1"), (" a", "a"), ("'", "'"), (" ", "'")]
  return byte_level(
    ("a", "1", "2", " ", "\n", "'"),
    merges,
    pre_tokenizers.Digits(individual_digits=True),
    use_regex=True,
    texts=("a  1", "a\n\n1", "12 1", "  \n1a"),
  )


@_zoo
def llama3():
  """Llama 3's: digits in threes, whole pieces first."""
  merges = [*_PARAGRAPH, ("1", "1"), ("11", "1"), ("'", "S"), (" ", "a")]
  merges += [("a", "S"), ("!", "\n"), (" ", "!"), (" \n", "\n"), (" ", "\n")]
  return byte_level(
    ("a", "S", "1", " ", "\n", "'", "!"),
    merges,
    _split(LLAMA3),
    whole=(" aa", "a1", "SS", "!!\n", "Sa"),
    ignore_merges=True,
    texts=("1111111", "a'S", "a!\n\n", "a\n\n ", " \n \n", "SSa", " aa aaa"),
  )


@_zoo
def cl100k():
  """GPT-4's: possessive repeats, the end of a line."""
  merges = [*_PARAGRAPH, ("1", "1"), ("1", "11"), ("!", "!"), (" ", "a")]
  merges += [("!!", "\n"), (" \n", "\n"), (" ", "\n"), ("s", "a")]
  return byte_level(
    ("a", "s", "1", " ", "\n", "'", "!"),
    merges,
    _split(CL100K),
    texts=("1111", "a  \n\n", "  ", "a   a", "'sa", "!!\n\n!"),
  )


@_zoo
def qwen2():
  """Qwen's split, without its normalizer; carriage returns."""
  alphabet = ("a", "t", "1", " ", "\n", "\r", "'")
  merges = [*_PARAGRAPH, ("\r", "\n"), ("'", "t"), ("1", "1"), (" ", "\r")]
  return byte_level(
    alphabet,
    [*merges, *random_merges(7, alphabet, 8, 3)],
    _split(QWEN2),
    texts=("a \r\n", "a'ta", "11a", " \r\n\r\na"),
  )


@_zoo
def o200k():
  """GPT-4o's: case, contractions at the end of words, slashes."""
  merges = [*_PARAGRAPH, ("a", "'"), ("'", "s"), ("a", "A"), ("A", "A")]
  merges += [("a", "'s"), ("A", "a"), (" ", "A"), ("/", "\n"), (" A", "a")]
  return byte_level(
    ("a", "A", "s", " ", "\n", "'", "/"),
    merges,
    _split(O200K),
    texts=("aAa's", "AAa", "a's/\n/", "A'sa", "a\n\na"),
  )


@_zoo
def deepseek():
  """Three splits, one inside the other."""
  merges = [*_PARAGRAPH, ("1", "1"), ("!", "a"), (" ", "a"), (" ", "!")]
  merges += [(b"\xe3\x81", b"\x81"), (b"\xe3", b"\x81"), (b"\xe3", b"\x80")]
  merges += [(b"\xe3\x81\x81", b"\xe3\x81\x81"), (b"a", b"\xe3")]
  return byte_level(
    ("a", "1", " ", "\n", "!", *WIDE),
    merges,
    [_split(pattern) for pattern in DEEPSEEK],
    texts=("!aa", " 1111", "a\u3041\u3041!", "a  1", "\u3041 \u3041"),
    many=48,
  )


@_zoo
def every_byte():
  """All 256 bytes, GPT-2's split: UTF-8 as strict as can be."""
  merges = [(b"\xc3", b"\xa9"), (b"\xf0", b"\x9f"), (b"\xf0\x9f", b"\x98")]
  merges += [(b"\xed", b"\x9f"), (b" ", b"\xe4"), (b"\xe4", b"\xb8")]
  merges += [(b"\xa9", b"\xc3"), (b"\n", b"\n"), (b" ", b" "), (b" ", b"a")]
  merges += [(b"\xe0", b"\xa0"), (b"\xf4", b"\x8f")]
  return byte_level(
    ("a", " ", "\n", "1", "\u00e9", "\u3000"),
    merges,
    None,
    atoms=range(256),
    use_regex=True,
    ahead=1,
    # One of each class that the split tells apart, for each first byte that
    # leads to several.
    others=("\u0085", "\u00d7", "\u00b2", "\u1680", "\u2003", "\u2028"),
    texts=("\u00e9a", " 中", "😀", "\ud7ff", "\U0010ffff", "\u0800", "a\n\na"),
    many=28,
  )


def _behavior(name: str, behavior: str, invert: bool, seed: int) -> None:
  def build():
    alphabet = ("a", "b", " ", "1", ".")
    return byte_level(
      alphabet,
      random_merges(seed, alphabet, 14, 3),
      _split(r"\s|\p{N}+", behavior, invert),
      texts=("a  b", "1 1a", " 11 .", "a1.b", "..a "),
    )

  build.__name__ = name
  _zoo(build)


for _k, _name in enumerate(
  ("isolated", "merged_with_previous", "merged_with_next", "contiguous")
):
  _behavior(f"split_{_name}", _name, False, 20 + _k)
  _behavior(f"split_{_name}_inverted", _name, True, 30 + _k)


@_zoo
def split_removed_inverted():
  """What matches is kept; the pattern matches every character."""
  alphabet = ("a", "b", " ", "1", ".")
  return byte_level(
    alphabet,
    random_merges(40, alphabet, 14, 3),
    _split(r"[a-z]+|\d{1,2}|[\s.]", "removed", True),
    texts=("a  b", "111a", ".11 .", "ab.ab"),
  )


@_zoo
def punctuation():
  """The named splits, a literal one, and one inside another."""
  alphabet = ("a", "1", ".", "-", " ")
  return byte_level(
    alphabet,
    random_merges(41, alphabet, 14, 3),
    [
      pre_tokenizers.Split("- ", "merged_with_previous"),
      pre_tokenizers.Punctuation("contiguous"),
      pre_tokenizers.Digits(individual_digits=False),
    ],
    texts=("a- -a", "..-a11.", "a 1- - 1"),
  )


@_zoo
def lookahead():
  """Lazy repeats, positive look-ahead, backtracking."""
  alphabet = ("a", "b", "c", " ")
  return byte_level(
    alphabet,
    random_merges(42, alphabet, 14, 3),
    _split(r"a+?b|a{2,3}(?=b|$)|b?+c|(?:ab|a)c"),
    ahead=4,
    texts=("aaab", "aaa", "abc", "aaaac", "bbc"),
  )


@_zoo
def whole_pieces():
  """`ignore_merges`, with tokens that merges never reach, over GPT-2's."""
  alphabet = ("a", "b", " ", ".")
  return byte_level(
    alphabet,
    [("a", "b"), (" ", "a"), ("b", "a"), ("ab", "a"), (".", ".")],
    None,
    use_regex=True,
    whole=("aa", "bab", " bb", "aba", "..", "...", " ab", "abab", " a"),
    ignore_merges=True,
    ahead=3,
    texts=("aab", "bab bab", "aa aa", " bba", "ababab", "....", " aba"),
    many=64,
  )


def _random(name: str, seed: int, by_rank: bool) -> None:
  def build():
    alphabet = ("a", "b", "c")
    pairs = random_merges(seed, alphabet, 12, 5)
    if by_rank:
      tokens = list(dict.fromkeys([*alphabet, *(a + b for a, b in pairs)]))
      random.Random(seed).shuffle(tokens)
      pairs = splits(tokens)
    return byte_level(alphabet, pairs, None, many=64)

  build.__name__ = name
  _zoo(build)


for _seed in (1, 2):
  _random(f"random_order_{_seed}", _seed, False)
  _random(f"ranked_splits_{_seed}", 10 + _seed, True)


@_zoo
def newline_runs():
  """Added tokens that match ordinary text and one another."""
  added = [
    AddedToken("\n\n", normalized=False, special=False),
    AddedToken("\n\n\n", normalized=False, special=False),
    AddedToken("a\n", normalized=False, special=False),
    AddedToken("\nb\n", normalized=False, special=False),
  ]
  return byte_level(
    ("a", "b", " ", "\n"),
    [("a", "a"), (" ", " "), (" ", "a"), ("b", "\n"), (" ", "\n")],
    None,
    added=added,
    use_regex=True,
    ahead=4,
    texts=("a\n\n\n\n\nb", "a\nb\n\n", "aa\n\nb\n", "  \n\n\n  "),
    many=64,
  )


@_zoo
def added_twice():
  """Raw added tokens, and others matched in what they leave."""
  added = [
    AddedToken("bb", normalized=False, special=False),
    AddedToken("ab", normalized=True, special=False),
    AddedToken("ba", normalized=False, special=False),
    AddedToken("b a", normalized=True, special=False),
  ]
  return byte_level(
    ("a", "b", " "),
    [("a", "a"), (" ", "b"), (" ", "a"), ("a", " "), ("aa", " ")],
    None,
    added=added,
    use_regex=True,
    ahead=4,
    texts=("abba", "aab b a", "bbbab", "abab", "b ab a"),
    many=64,
  )


@_zoo
def prefix_space():
  """GPT-2's with a space before the text, unless there is one."""
  alphabet = ("a", "b", " ", "\n")
  entry = byte_level(
    alphabet,
    [(" ", "a"), ("a", "b"), (" ", " "), (" a", "b"), ("\n", "\n")],
    None,
    use_regex=True,
    prefixed=True,
  )
  data = entry.json | {
    "pre_tokenizer": entry.json["pre_tokenizer"] | {"add_prefix_space": True}
  }
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
  return dataclasses.replace(entry, json=data, encode=oracle.library(tokenizer))


_PIECES = (SPACE, "a", "b", "\u00e9", f"{SPACE}a", "ab", f"{SPACE}ab", "ba")
_SPACES = (*_PIECES, SPACE * 2, SPACE * 3, f"a{SPACE}", "bab", f"{SPACE}b")


@_zoo
def llama2():
  """Llama 2's: a space before the text, all splits, byte fallback."""
  tokens = tuple(token for token in _SPACES if token != "\u00e9")
  return character_level(
    ("a", "b", " ", "\u00e9", "\n"),
    tokens,
    splits(tokens),
    normalizer=normalizers.Sequence(
      [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    ),
    fallback=True,
    prefixed=True,
    texts=("", "a b", " a", "\u00e9\u00e9a", "  b", "中a"),
    many=24,
  )


@_zoo
def gemma():
  """Gemma's: newline runs are added tokens, bytes have twins."""
  tokens = (*_SPACES, "\n", "\n\n", "\n\n\n", "\t")
  return character_level(
    ("a", "b", " ", "\n", "\u00e8"),
    tokens,
    splits(tokens),
    normalizer=normalizers.Replace(" ", SPACE),
    pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
    fallback=True,
    added=[
      AddedToken("\n", normalized=False, special=False),
      AddedToken("\n\n", normalized=False, special=False),
      AddedToken("\n\n\n", normalized=False, special=False),
      AddedToken(SPACE * 2, normalized=False, special=False),
    ],
    texts=("a\n\nb", "\n\n\n\n", "  a", "\u00e8a"),
    many=24,
  )


@_zoo
def spaced_added():
  """An added token matched in the text as normalized."""
  tokens = (*_PIECES, SPACE * 2)
  return character_level(
    ("a", "b", " ", "\u00e9"),
    tokens,
    splits(tokens),
    normalizer=normalizers.Replace(" ", SPACE),
    added=[
      AddedToken(f"b{SPACE}", normalized=True, special=False),
      AddedToken("ba", normalized=True, special=False),
    ],
    ahead=3,
    texts=("ab a", "bab  b", "b ba "),
  )


def _metaspace(name: str, scheme: str, split: bool, tokens) -> None:
  def build():
    return character_level(
      ("a", "b", " ", "\u00e9"),
      tokens,
      splits(tokens),
      pre_tokenizer=pre_tokenizers.Metaspace(
        prepend_scheme=scheme, split=split
      ),
      prefixed=scheme != "never",
      texts=("", "a b", "  a", "\u00e9 b", "a  ", "ab a\u00e9"),
    )

  build.__name__ = name
  _zoo(build)


_metaspace("metaspace_always", "always", True, _SPACES)
_metaspace("metaspace_first", "first", True, _PIECES)
_metaspace("metaspace_never", "never", True, _SPACES)
_metaspace("metaspace_whole", "always", False, _SPACES)


def _scores(tokens: Sequence[str], ties: int | None, seed: int):
  rng = random.Random(seed)
  return {
    token: -rng.random() if ties is None else -float(rng.randrange(ties))
    for token in tokens
  }


@_zoo
def sentencepiece_scores():
  """A SentencePiece model: the best score first; a space before the text."""
  return sentencepiece_entry(
    ("a", "b", " ", "\u00e9"),
    _scores(_SPACES, None, 3),
    prefix=True,
    texts=("", "a b", "  a"),
    many=64,
  )


@_zoo
def sentencepiece_ties():
  """Pieces of equal scores: from the left."""
  tokens = ("a", "b", "aa", "ab", "ba", "bb", "aaa", "aba", "bab", "abab")
  return sentencepiece_entry(
    ("a", "b", " "), _scores((SPACE, *tokens), 2, 1), many=64
  )


@_zoo
def sentencepiece_fallback():
  """Byte fallback and pieces of the user's."""
  return sentencepiece_entry(
    ("a", "b", " ", "\n", "\u00e8"),
    _scores(_SPACES, 3, 5),
    fallback=True,
    user_defined=("\n\n", "\n\n\n", f"b{SPACE}", "aba"),
    texts=("\n\n\n\na", "ab  a", "babab", "\u00e8"),
    many=24,
  )


@_zoo
def composed():
  """Qwen's normalizer: what composes is never written apart."""
  alphabet = ("e", "\u0301", "\u0329", "\u00c1", "\u00e9", "b")
  merges = [(b"e", b"\xcc"), (b"\xcc", b"\x81"), (b"\xc3", b"\xa9")]
  merges += [(b"e", b"\xcc\xa9"), (b"\xcc", b"\xa9"), (b"b", b"e")]
  return byte_level(
    alphabet,
    [*merges, (b"\xcc\x81", b"\xcc\x81"), (b"\xa9", b"b")],
    _split(QWEN2),
    normalizer=normalizers.NFC(),
    texts=("e\u0329", "be\u0329b", "\u00e9\u0301", "\u00c1\u0329e"),
  )


PATTERNS = (
  r"\s+(?!\S)|\s+",
  r"[ab]+|\s",
  r" ?a+",
  r"a+?b|b",
  r"(?:ab)+|1",
  r"\s*b+|\s+(?!\S)|\s",
  r"a{1,3}",
  r" ?\p{L}+|\s+(?!\S)|\s+",
  r"a(?=b)|b+",
  r"a(?!b)|ab",
  r"[^a]+a?",
  r"b?+a| ++$|.",
  r"ab|a|b",
  r"[^\s1]?[ab]+|1{1,3}|\s+",
  r"(?:ab|aba)(?=1|$)| a",
  r"b*a{2}| b|a1",
)
"""What random pre-tokenizers are made of; none matches the empty text."""

BEHAVIORS = (
  "isolated", "contiguous", "merged_with_previous", "merged_with_next"
)  # fmt: skip


def random_splits(rng: random.Random, alphabet: Sequence[str]) -> list:
  """Up to two pre-tokenizers, one inside the other."""
  parts = []
  for _ in range(rng.randrange(3)):
    kind = rng.randrange(6)
    if kind == 0:
      parts.append(pre_tokenizers.Digits(rng.random() < 0.5))
    elif kind == 1:
      text = "".join(rng.choices(alphabet, k=rng.randint(1, 2)))
      parts.append(
        pre_tokenizers.Split(text, rng.choice(BEHAVIORS), rng.random() < 0.3)
      )
    else:
      invert = rng.random() < 0.3
      pattern, behavior = rng.choice(PATTERNS), rng.choice(BEHAVIORS)
      parts.append(_split(pattern, behavior, invert))
  return parts


def random_entry(rng: random.Random) -> Entry:
  """A byte-level tokenizer of random parts.

  Args:
    rng: what decides; `random.Random` or hypothesis's.
  """
  alphabet = rng.choice([("a", "b"), ("a", "b", " "), ("a", "b", "1", " ")])
  parts = random_splits(rng, alphabet)
  ignore = rng.random() < 0.4
  count = rng.randint(3, 14)
  pairs = random_merges(rng.randrange(10**6), alphabet, count, 4)
  if rng.random() < 0.3:
    pieces = list(dict.fromkeys([*alphabet, *(a + b for a, b in pairs)]))
    rng.shuffle(pieces)
    pairs = splits(pieces)[:30]
  whole = [
    "".join(rng.choices(alphabet, k=rng.randint(2, 4)))
    for _ in range(rng.randrange(5))
  ]
  added = {
    "".join(rng.choices(alphabet, k=rng.randint(1, 3))): rng.random() < 0.4
    for _ in range(rng.choice([0, 0, 1, 2, 3]))
  }
  return byte_level(
    alphabet,
    pairs,
    parts,
    whole=whole,
    ignore_merges=ignore,
    use_regex=rng.random() < 0.15,
    added=[
      AddedToken(text, normalized=normalized, special=False)
      for text, normalized in added.items()
    ],
    ahead=4 if len(alphabet) < 4 else 3,
    many=64,
  )


def random_pieces(
  rng: random.Random, atoms: Sequence[str], count: int, longest: int
) -> list[str]:
  """Different strings of at least two atoms."""
  most = sum(len(atoms) ** size for size in range(2, longest + 1))
  found: dict[str, None] = {}
  while len(found) < min(count, most):
    found["".join(rng.choices(atoms, k=rng.randint(2, longest)))] = None
  return list(found)


def word_piece(
  alphabet: Sequence[str],
  pieces: Sequence[str | bytes],
  mark: str,
  pre_tokenizer=None,
  *,
  by_bytes: bool = False,
  added: Sequence[AddedToken] = (),
  **rest,
) -> Entry:
  """A tokenizer of longest matches from the left.

  Args:
    alphabet: the characters of texts.
    pieces: tokens, with `mark` before those that go on inside a piece.
    mark: "##", or "" (the paper's MPE).
    pre_tokenizer: see the tokenizers library.
    by_bytes: the pieces are bytes, and so without a mark.
    added: added tokens that are not special.
    **rest: see `Entry`.
  """
  write = shown if by_bytes else str
  vocab = {"<unk>": 0}
  for piece in pieces:
    vocab.setdefault(write(piece), len(vocab))
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(
      vocab=vocab,
      unk_token="<unk>",
      continuing_subword_prefix=mark,
      max_input_chars_per_word=2**20,
    )
  )
  if pre_tokenizer is not None:
    tokenizer.pre_tokenizer = pre_tokenizer
  back = {char: byte for byte, char in visible().items()}

  def spell(piece: str) -> bytes:
    piece = piece.removeprefix(mark) if mark else piece
    if by_bytes:
      return bytes(back[char] for char in piece)
    return piece.replace(SPACE, " ").encode()

  entry = _entry(tokenizer, spell, added, alphabet=tuple(alphabet), **rest)
  return _known_only(entry)


def _known_only(entry: Entry) -> Entry:
  """Texts with the unknown token are no texts: nothing leads there."""

  def encode(texts: list[str]) -> list[oracle.Node]:
    return [() if 0 in ids else ids for ids in entry.encode(texts)]

  return dataclasses.replace(entry, encode=encode)


def unigram(
  alphabet: Sequence[str],
  scores: dict[str, float],
  pre_tokenizer=None,
  *,
  fallback: bool = False,
  added: Sequence[AddedToken] = (),
  **rest,
) -> Entry:
  """A unigram tokenizer of the tokenizers library.

  Args:
    alphabet: the characters of texts.
    scores: of the pieces.
    pre_tokenizer: see the tokenizers library.
    fallback: characters that are no pieces are spelled byte by byte.
    added: added tokens that are not special.
    **rest: see `Entry`.
  """
  pieces = [("<unk>", 0.0)]
  if fallback:
    pieces += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
  tokenizer = tokenizers.Tokenizer(
    models.Unigram(
      vocab=[*pieces, *scores.items()], unk_id=0, byte_fallback=fallback
    )
  )
  if pre_tokenizer is not None:
    tokenizer.pre_tokenizer = pre_tokenizer

  def spell(piece: str) -> bytes:
    if fallback and piece.startswith("<0x"):
      return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()

  rest.setdefault("others", () if fallback else None)
  rest.setdefault("ahead", 1 if fallback else 2)
  entry = _entry(tokenizer, spell, added, alphabet=tuple(alphabet), **rest)
  return _known_only(entry)


def _mpe(name: str, seed: int) -> None:
  def build():
    """The paper's: longest matches, no pre-tokenizer."""
    alphabet = ("a", "b", "c")
    pieces = random_pieces(random.Random(seed), alphabet, 14, 5)
    return word_piece(alphabet, [*alphabet, *pieces], "", ahead=4, many=64)

  build.__name__ = name
  _zoo(build)


for _seed in (1, 2):
  _mpe(f"mpe_{_seed}", _seed)


def _wordpieces(alphabet, seed: int, count: int) -> list[str]:
  """WordPiece's vocabulary: what starts a piece, and what goes on in it."""
  rng = random.Random(seed)
  starts = [*alphabet, *random_pieces(rng, alphabet, count, 4)]
  others = [*alphabet, *random_pieces(rng, alphabet, count, 4)]
  return [*starts, *("##" + piece for piece in others)]


@_zoo
def wordpiece():
  """WordPiece, words and spaces apart."""
  alphabet = ("a", "b", " ", "\u00e9")
  return word_piece(
    alphabet,
    _wordpieces(alphabet, 3, 9),
    "##",
    _split(r"\s"),
    ahead=3,
    texts=("abba a", "a  b", "\u00e9a\u00e9 b"),
    many=64,
  )


@_zoo
def wordpiece_whole():
  """WordPiece without a pre-tokenizer: only the text's start is a start."""
  alphabet = ("a", "b")
  return word_piece(
    alphabet, _wordpieces(alphabet, 4, 8), "##", ahead=4, many=48
  )


@_zoo
def greedy_lookahead():
  """Longest matches between splits that look ahead."""
  alphabet = ("a", "b", " ", "\n")
  pieces = [*random_pieces(random.Random(6), alphabet, 12, 4), "  ", "aa"]
  return word_piece(
    alphabet,
    [*alphabet, *pieces, " ab"],
    "",
    _split(r" ?[ab]+|\s+(?!\S)|\s+"),
    ahead=3,
    texts=("a  b", "aa \n\nb", "ab   aba", " \n "),
    many=64,
  )


@_zoo
def greedy_bytes():
  """Longest matches over bytes; tokens that are several characters."""
  alphabet = ("a", " ", *WIDE)
  bytes_ = sorted({byte for char in alphabet for byte in char.encode()})
  return word_piece(
    alphabet,
    [
      *(bytes([byte]) for byte in bytes_),
      *("aa", "a ", "\u3000\u3001", "\u3001a", "\u3041\u3041"),
      *(b"\xe3\x80", b"a\xe3", b"\x80\xe3\x80", b"\x80a"),
      # A character is never left after its second byte, `81`.
      *(b"\x81\x80", b"\x81\x81"),
    ],
    "",
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    by_bytes=True,
    texts=("\u3000\u3001\u3041", "a \u3041\u3041", "aa\u3040\u3000 "),
    many=48,
  )


def _log_probs(tokens: Sequence[str], ties: int | None, seed: int):
  """Scores with which longer pieces are often worth it, in exact floats."""
  rng = random.Random(seed)
  steps = 4096 if ties is None else ties
  unit = 3.0 / 4096 if ties is None else 1.0
  return {token: -1 - unit * rng.randrange(steps) for token in tokens}


def _unigrams(name: str, seed: int, ties: int | None) -> None:
  def build():
    """Unigram, no pre-tokenizer."""
    alphabet = ("a", "b", "c")
    rng = random.Random(seed)
    tokens = [*alphabet, *random_pieces(rng, alphabet, 14, 4)]
    return unigram(alphabet, _log_probs(tokens, ties, seed), ahead=4, many=64)

  build.__name__ = name
  _zoo(build)


_unigrams("unigram_1", 1, None)
_unigrams("unigram_ties_1", 2, 2)
_unigrams("unigram_ties_2", 3, 4)


@_zoo
def unigram_metaspace():
  """Unigram as T5 and XLM-R use it: words with the space before them."""
  return unigram(
    ("a", "b", " ", "\u00e9"),
    _log_probs((*_SPACES, f"{SPACE}\u00e9", "b\u00e9"), 5, 2),
    pre_tokenizers.Metaspace(prepend_scheme="always"),
    prefixed=True,
    ahead=3,
    texts=("", "a b", "  a", "\u00e9 b", "ab a\u00e9", "bab  ba"),
    many=64,
  )


@_zoo
def unigram_lookahead():
  """Unigram between splits that look ahead."""
  alphabet = ("a", "b", " ", "\n")
  pieces = [*random_pieces(random.Random(8), alphabet, 12, 3), "  ", " a"]
  return unigram(
    alphabet,
    _log_probs([*alphabet, *pieces], 4, 8),
    _split(r" ?[ab]+|\s+(?!\S)|\s+"),
    ahead=3,
    texts=("a  b", "aa \n\nb", "ab   aba", " \n "),
    many=64,
  )


@_zoo
def unigram_fallback():
  """Unigram with byte fallback: a character apart breaks the path."""
  return unigram(
    ("a", "b", "\u00e9", "\u00e8"),
    _log_probs(("a", "b", "\u00e9", "ab", "a\u00e9", "bab", "ba"), 3, 4),
    fallback=True,
    texts=("\u00e8a\u00e9", "中ab", "\u00e9\u00e8\u00e8ba", "ab\u00e9"),
    many=32,
  )


@_zoo
def sentencepiece_unigram():
  """A SentencePiece unigram model; a space before the text."""
  return sentencepiece_entry(
    ("a", "b", " ", "\u00e9"),
    _log_probs((*_SPACES, f"{SPACE}\u00e9"), 4, 7),
    prefix=True,
    kind=1,
    ahead=3,
    texts=("", "a b", "  a", "bab ab"),
    many=64,
  )


@_zoo
def sentencepiece_unigram_fallback():
  """The same with byte fallback."""
  return sentencepiece_entry(
    ("a", "b", " ", "\n", "\u00e8"),
    _log_probs(_SPACES, None, 5),
    fallback=True,
    kind=1,
    texts=("\na", "ab  a", "babab", "\u00e8"),
    many=24,
  )


def _random_vocabulary(rng: random.Random, atoms: Sequence[str]) -> list[str]:
  """Atoms, and random strings of them."""
  count, longest = rng.randint(2, 14), rng.randint(2, 5)
  return [*atoms, *random_pieces(rng, atoms, count, longest)]


_ALPHABETS = (("a", "b"), ("a", "b", " "), ("a", "1", " ", "b"))


def _random_rest(rng: random.Random, alphabet: Sequence[str]) -> dict:
  """A random pre-tokenizer and added tokens."""
  parts = random_splits(rng, alphabet)
  added = {
    "".join(rng.choices(alphabet, k=rng.randint(1, 3)))
    for _ in range(rng.choice([0, 0, 1, 2]))
  }
  return {
    "pre_tokenizer": pre_tokenizers.Sequence(parts) if parts else None,
    "added": [
      AddedToken(text, normalized=False, special=False)
      for text in sorted(added)
    ],
    "ahead": 4 if len(alphabet) < 4 else 3,
    "many": 64,
  }


def random_greedy(rng: random.Random) -> Entry:
  """A tokenizer of longest matches, of random parts; see `random_entry`."""
  alphabet = rng.choice(_ALPHABETS)
  mark = rng.choice(["", "##"])
  pieces = _random_vocabulary(rng, alphabet)
  if mark:
    pieces += [mark + piece for piece in _random_vocabulary(rng, alphabet)]
    if rng.random() < 0.4:
      # A character that cannot stand everywhere.
      pieces.remove(rng.choice(["", mark]) + rng.choice(alphabet))
  return word_piece(alphabet, pieces, mark, **_random_rest(rng, alphabet))


def random_unigram(rng: random.Random) -> Entry:
  """A unigram tokenizer of random parts; see `random_entry`."""
  alphabet = rng.choice(_ALPHABETS)
  known = alphabet[: len(alphabet) - (rng.random() < 0.2)]
  pieces = _random_vocabulary(rng, known)
  ties = rng.choice([None, 2, 3, 6])
  scores = _log_probs(pieces, ties, rng.randrange(10**6))
  return unigram(alphabet, scores, **_random_rest(rng, alphabet))
