"""Host: trains the two small tokenizers, deterministically.

Both are BPE and written as Hugging Face `tokenizer.json`. One works as the
tokenizers of Llama 3 and Qwen do: a regex cuts the text, then bytes are
merged. The other works as Llama 2's (SentencePiece) does: spaces are letters,
nothing is cut, and characters outside the vocabulary fall back to bytes.
"""

import json
from collections.abc import Sequence

import tokenizers
from tokenizers import (
  AddedToken,
  Regex,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

from experiments import _data

PREFIX = "<|fim_prefix|>"
MIDDLE = "<|fim_middle|>"
SUFFIX = "<|fim_suffix|>"
FIM_PAD = "<|fim_pad|>"
END_OF_TEXT = "<|endoftext|>"
FIM_TOKENS = (PREFIX, MIDDLE, SUFFIX, FIM_PAD)

SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
  r"|[^\r\n\p{L}\p{N}]?\p{L}+"
  r"|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+"
  r"|\s+(?!\S)"
  r"|\s+"
)
"""Where the byte-level tokenizer cuts: Qwen's rule, every digit alone."""

WORDS = r"\p{N}|▁?\p{L}+|▁?[^\s▁\p{L}\p{N}]+|▁+(?=▁)|▁|\s"
"""Pieces from which the SentencePiece-like tokenizer learns its tokens.

Words and runs of punctuation, each with the space before it; runs of spaces
except the last one; digits one by one. SentencePiece learns so by default.
When it encodes, the tokenizer does not cut a text there.
"""

ASCII = [chr(i) for i in range(33, 127)]


def train_byte_level(
  texts: Sequence[str], vocab_size: int
) -> tokenizers.Tokenizer:
  """A byte-level BPE.

  Args:
    texts: what to learn from.
    vocab_size: tokens, with the special ones (the first ids) and all bytes.

  Returns:
    The tokenizer; the same for the same arguments.
  """
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(SPLIT), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  tokenizer.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=[special(t) for t in (END_OF_TEXT, *FIM_TOKENS)],
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
    ),
  )
  tokenizer.post_processor = start_with(tokenizer, END_OF_TEXT)
  return tokenizer


def train_byte_fallback(
  texts: Sequence[str], vocab_size: int
) -> tokenizers.Tokenizer:
  """A BPE in the manner of SentencePiece, with byte fallback.

  Ids are, in this order, as in Llama 2: `<unk>`, `<s>`, `</s>`, the 256
  bytes, pieces in the order that they were learned, single characters
  (printable ASCII and `▁`), and the special tokens for infilling.

  Args:
    texts: what to learn from.
    vocab_size: tokens, with the special ones and all bytes.

  Returns:
    The tokenizer; the same for the same arguments.
  """
  fixed = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
  alphabet = ["▁", *ASCII]
  pieces = _learn_pieces(
    texts, alphabet, vocab_size - len(fixed) - len(alphabet) - len(FIM_TOKENS)
  )
  order = [*fixed, *pieces, *alphabet]
  vocab = {token: i for i, token in enumerate(order)}
  model = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "<unk>",
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": True,
    "byte_fallback": True,
    "vocab": vocab,
    "merges": _all_merges(pieces, vocab),
  }
  # `from_str` because the constructor of the model checks less.
  tokenizer = tokenizers.Tokenizer.from_str(
    json.dumps(
      {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
      }
    )
  )
  tokenizer.normalizer = _spaces_are_letters()
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  tokenizer.add_special_tokens(
    [special(t) for t in ("<unk>", "<s>", "</s>", *FIM_TOKENS)]
  )
  tokenizer.post_processor = start_with(tokenizer, "<s>")
  return tokenizer


def markers(tokenizer: tokenizers.Tokenizer) -> _data.Markers:
  """The tokens that structure a row, of either tokenizer."""
  ids = tokenizer.token_to_id
  two = ids(END_OF_TEXT) is None
  return _data.Markers(
    start=ids("<s>" if two else END_OF_TEXT),
    end=ids("</s>" if two else END_OF_TEXT),
    prefix=ids(PREFIX),
    suffix=ids(SUFFIX),
    middle=ids(MIDDLE),
  )


def special(content: str) -> AddedToken:
  """A special token, found in the text as it stands."""
  return AddedToken(content, special=True, normalized=False)


def start_with(
  tokenizer: tokenizers.Tokenizer, token: str
) -> processors.TemplateProcessing:
  """Puts `token` before every text."""
  return processors.TemplateProcessing(
    single=f"{token} $A",
    pair=f"{token} $A {token}:1 $B:1",
    special_tokens=[(token, tokenizer.token_to_id(token))],
  )


def _spaces_are_letters() -> normalizers.Sequence:
  return normalizers.Sequence(
    [
      normalizers.Prepend("▁"),
      normalizers.Replace(" ", "▁"),
    ]
  )


def _learn_pieces(
  texts: Sequence[str], alphabet: Sequence[str], count: int
) -> list[str]:
  """The `count` first pieces that BPE makes, in order."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.normalizer = _spaces_are_letters()
  tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
  tokenizer.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=len(alphabet) + count,
      initial_alphabet=list(alphabet),
      # Other characters are left to byte fallback.
      limit_alphabet=len(alphabet),
      show_progress=False,
    ),
  )
  by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
  return [token for token, _ in by_id if len(token) > 1]


def _all_merges(
  pieces: Sequence[str], vocab: dict[str, int]
) -> list[tuple[str, str]]:
  """Every pair of tokens that joins to a piece, by the piece's rank.

  BPE alone makes a piece from the one pair it was learned from;
  SentencePiece, and so Llama 2, from any pair.
  """
  merges = []
  for piece in pieces:
    pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    known = [(a, b) for a, b in pairs if a in vocab and b in vocab]
    merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
  return merges


TRAINERS = {
  "byte_level": train_byte_level,
  "byte_fallback": train_byte_fallback,
}
"""The tokenizers by the names that configurations use."""
