"""Host: texts -> documents -> fill-in-the-middle -> packed rows.

Everything here is a pure function of its arguments, random numbers included
(a `numpy.random.Generator` is an argument), so that the same recipe gives the
same rows on every machine.

The recipe, after "Efficient Training of Language Models to Fill in the
Middle" (Bavarian et al., 2022), with its context-level variant:

  * A share of the files stays whole and reads left to right.
  * The other files are cut at line ends into pieces that fit a row; each piece
    is split at two random characters into prefix, middle and suffix, which are
    tokenized apart, and written in one of two orders:

      PSM   <pre> prefix <suf> suffix <mid> middle <end>
      SPM   <pre> <suf> suffix <mid> prefix middle <end>

    Or prefix and middle are tokenized as one text in SPM, as Code Llama was
    trained: then no token ends where the middle begins inside one.

  * Rows hold such pieces uncut; what is left of each row is filled with the
    whole files, which may be cut anywhere.
"""

import collections
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import numpy as np
import tokenizers

PAD = -1
"""Not a token: marks places in rows that count neither as input nor target."""

Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Markers:
  """Token ids that structure a row.

  Attributes:
    start: begins every row and every document.
    end: ends every document; may be the same token as `start`.
    prefix: begins a document written out of order.
    suffix: comes before the suffix.
    middle: comes before the middle (PSM), or prefix and middle (SPM).
  """

  start: int
  end: int
  prefix: int
  suffix: int
  middle: int

  def close(self, tokens: Sequence[int]) -> list[int]:
    """One document, ended, and the start of the next."""
    if self.start == self.end:
      return [*tokens, self.end]
    return [*tokens, self.end, self.start]


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[list[int]]:
  """Tokens of each text, with nothing added before or after.

  A special token's own text (`<s>` is HTML, too) is text like any other: see
  `load_tokenizer`.
  """
  batch = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
  return [one.ids for one in batch]


def load_tokenizer(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Reads a `tokenizer.json`, to take special tokens' texts as plain text."""
  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  tokenizer.encode_special_tokens = True
  return tokenizer


def continuing(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  """The same tokenizer for texts that go on from other text.

  Llama 2's rule puts a space before every text; here, none is.
  """
  spec = json.loads(tokenizer.to_str())
  normalizer = spec["normalizer"]
  if normalizer is not None and normalizer["type"] == "Sequence":
    normalizer["normalizers"] = [
      n for n in normalizer["normalizers"] if n["type"] != "Prepend"
    ]
  copy = tokenizers.Tokenizer.from_str(json.dumps(spec))
  copy.encode_special_tokens = tokenizer.encode_special_tokens
  return copy


def cut(text: str, sizes: tuple[int, int], rng: Rng) -> list[str]:
  """Cuts a text at line ends into pieces of random size.

  Args:
    text: any text.
    sizes: the least and the greatest size that is aimed at, in characters;
      log-uniform between them. A piece is longer by the line that it ends in.
    rng: consumed.

  Returns:
    Pieces, none of them empty, that join to `text`.
  """
  lines = text.splitlines(keepends=True)
  low, high = map(math.log, sizes)
  pieces, first, size = [], 0, 0
  goal = math.exp(rng.uniform(low, high))
  for i, line in enumerate(lines, start=1):
    size += len(line)
    if size >= goal or i == len(lines):
      pieces.append("".join(lines[first:i]))
      first, size = i, 0
      goal = math.exp(rng.uniform(low, high))
  return pieces


def split(text: str, rng: Rng) -> tuple[str, str, str]:
  """Splits a text at two uniform characters: prefix, middle, suffix.

  Any of them may be empty; they join to `text`.
  """
  a, b = sorted(int(i) for i in rng.integers(0, len(text) + 1, size=2))
  return text[:a], text[a:b], text[b:]


def fill_in_the_middle(
  tokenizer: tokenizers.Tokenizer,
  markers: Markers,
  texts: Sequence[str],
  rng: Rng,
  *,
  joint: bool = False,
) -> list[list[int]]:
  """Writes each text out of order, PSM or SPM with equal chance.

  Prefix, suffix and middle are tokenized apart, each as a text of its own,
  but for one: the middle in SPM, which goes on from the prefix right before
  it, if that is not empty (see `continuing`); or both are one text.

  Args:
    tokenizer: see `load_tokenizer`.
    markers: ids of the tokens between the parts.
    texts: the documents.
    rng: consumed.
    joint: in SPM, prefix and middle are tokenized as one text.

  Returns:
    Token ids of each document, neither started nor ended.
  """
  triples = [split(text, rng) for text in texts]
  psm = rng.integers(0, 2, size=len(texts)).astype(bool)
  # What is not asked for is left empty: tokenizing takes most of the time.
  prefixes = encode(
    tokenizer,
    [p if psm[i] or not joint else "" for i, (p, _, _) in enumerate(triples)],
  )
  suffixes = encode(tokenizer, [s for _, _, s in triples])
  apart = encode(
    tokenizer,
    [m if psm[i] or not p else "" for i, (p, m, _) in enumerate(triples)],
  )
  if joint:
    joined = encode(
      tokenizer,
      ["" if psm[i] else p + m for i, (p, m, _) in enumerate(triples)],
    )
  else:
    after = encode(
      continuing(tokenizer),
      ["" if psm[i] else m for i, (_, m, _) in enumerate(triples)],
    )
    joined = [
      [*prefix, *(after if prefix else apart)[i]]
      for i, prefix in enumerate(prefixes)
    ]
  documents = []
  for i, (prefix, suffix) in enumerate(zip(prefixes, suffixes, strict=True)):
    if psm[i]:
      parts = [markers.prefix, *prefix, markers.suffix, *suffix]
      parts += [markers.middle, *apart[i]]
    else:
      parts = [markers.prefix, markers.suffix, *suffix]
      parts += [markers.middle, *joined[i]]
    documents.append(parts)
  return documents


def pack(
  whole: Sequence[Sequence[int]],
  loose: Sequence[int],
  *,
  start: int,
  context: int,
) -> np.ndarray:
  """Packs tokens into rows, losing and repeating none.

  Args:
    whole: documents that are not cut; each fits in a row.
    loose: a stream of tokens that may be cut anywhere; it fills the rows'
      ends, then rows of its own.
    start: the token that begins each row.
    context: tokens in a row after the first.

  Returns:
    `int32[rows, context + 1]`, `PAD` where both ran out.

  Raises:
    ValueError: a document in `whole` does not fit.
  """
  rows: list[list[int]] = []
  row: list[int] = [start]
  used = 0

  def fill_up() -> None:
    nonlocal row, used
    space = context + 1 - len(row)
    taken = list(loose[used : used + space])
    used += len(taken)
    row += taken
    rows.append(row + [PAD] * (space - len(taken)))
    row = [start]

  for document in whole:
    if len(document) > context:
      raise ValueError(f"{len(document)} tokens do not fit {context}")
    if len(row) + len(document) > context + 1:
      fill_up()
    row += document
  while len(row) > 1 or used < len(loose):
    fill_up()
  return np.asarray(rows, np.int32).reshape(-1, context + 1)


def in_order(
  tokenizer: tokenizers.Tokenizer,
  markers: Markers,
  texts: Sequence[str],
  *,
  context: int,
) -> np.ndarray:
  """Rows of whole texts, left to right: the validation set.

  Returns:
    `int32[rows, context + 1]`; see `pack`.
  """
  loose = []
  for tokens in encode(tokenizer, texts):
    loose += markers.close(tokens)
  return pack([], loose, start=markers.start, context=context)


def epoch(
  tokenizer: tokenizers.Tokenizer,
  markers: Markers,
  texts: Sequence[str],
  *,
  context: int,
  fim_share: float,
  joint: bool,
  sizes: tuple[int, int],
  rng: Rng,
) -> np.ndarray:
  """Rows of one pass over the texts, in random order.

  Args:
    tokenizer: see `load_tokenizer`.
    markers: ids of the tokens that structure rows.
    texts: whole files.
    context: tokens in a row after the first.
    fim_share: the chance of a file to be read out of order, in pieces.
    joint: see `fill_in_the_middle`.
    sizes: see `cut`.
    rng: consumed.

  Returns:
    `int32[rows, context + 1]`; see `pack`.
  """
  shuffled = [texts[i] for i in rng.permutation(len(texts))]
  out_of_order = rng.random(len(texts)) < fim_share
  pieces, files = [], []
  for text, pick in zip(shuffled, out_of_order, strict=True):
    if pick:
      pieces += cut(text, sizes, rng)
    else:
      files.append(text)
  loose: list[int] = []
  for tokens in encode(tokenizer, files):
    loose += markers.close(tokens)
  whole = []
  # The pieces of one file would otherwise share a row, and give each other
  # away.
  pieces = [pieces[i] for i in rng.permutation(len(pieces))]
  for tokens in fill_in_the_middle(
    tokenizer, markers, pieces, rng, joint=joint
  ):
    document = markers.close(tokens)
    if len(document) <= context:
      whole.append(document)
    else:
      loose += document
  rows = pack(whole, loose, start=markers.start, context=context)
  return rows[rng.permutation(len(rows))]


def epochs(
  make: Callable[[int], np.ndarray], workers: int
) -> Iterator[np.ndarray]:
  """Endless passes over the texts, whatever makes each from its number.

  Args:
    make: makes the rows of a pass; can be pickled if there are more workers.
    workers: how many processes make passes side by side and share the cores.
  """
  if workers < 2:
    yield from map(make, itertools.count())
  pool = futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_take_threads,
    initargs=(max((os.cpu_count() or 1) // workers, 1),),
  )
  try:
    ahead = collections.deque(pool.submit(make, i) for i in range(workers))
    for number in itertools.count(workers):
      yield ahead.popleft().result()
      ahead.append(pool.submit(make, number))
  finally:
    pool.shutdown(cancel_futures=True)


def _take_threads(count: int) -> None:
  """Keeps a process's tokenizer, before it is first used, to its share."""
  os.environ["RAYON_NUM_THREADS"] = str(count)


def take(blocks: Iterator[np.ndarray], count: int) -> np.ndarray:
  """The first `count` rows of blocks of rows; no more blocks are made.

  Returns:
    `int32[count, width]`.
  """
  taken, have = [], 0
  while have < count or not taken:
    taken.append(next(blocks)[: count - have])
    have += len(taken[-1])
  return np.concatenate(taken)
