"""Host: whole texts, side by side, any number of them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob.compilation import Program
from byteprob.engine.batch import (
  Reader,
  batch_of,
  begin,
  check_length,
  not_numbers,
  read_texts,
  take,
)
from byteprob.engine.config import EngineConfig
from byteprob.engine.evaluate import known_logprobs
from byteprob.engine.reading import ALL, ENTRIES
from byteprob.numerics import logsumexp, normalized
from byteprob.plan import distinct

MAX_LOGITS = 2**26
"""Logits of one model call, for all texts."""

MAX_TEXTS = 64
"""Texts side by side."""


class Scored(NamedTuple):
  """Results of scoring the last `n` bytes of one text.

  Attributes:
    byte: `float32[n]` log-prob of each scored byte, given those before it.
    next: `float32[257]` log-probs of the byte after the text; normalized. None
      without the flag `following`.
    before: log-prob of the bytes before the scored ones; 0 without the flag
      `before`.
    along: `float32[n + 1, 257]` log-probs of the next byte before each scored
      byte, and after the last; normalized. None without the flag
      `along`.
  """

  byte: Float[np.ndarray, " n"]
  next: Float[np.ndarray, "257"] | None
  before: float
  along: Float[np.ndarray, "m 257"] | None


def score(
  reader: Reader,
  counted: Sequence[int],
  *,
  along: bool = False,
  before: bool = False,
  following: bool = True,
  eps: float = 0.0,
) -> list[Scored]:
  """Scores the last bytes of texts, given those before.

  What several texts begin with, up to these bytes, is read once.

  Args:
    reader: the model, and the texts.
    counted: how many of each text's last bytes are asked about.
    along: ask for the next byte's distribution after each of them, too.
    before: ask for the log-prob of the bytes before them.
    following: ask for the next byte's distribution after the texts.
    eps: see `read`; 0 where anything but the bytes' log-probs is asked for.

  Raises:
    PromptError: a text is longer than the model's context, or the model's
      logits are not numbers.
  """
  check_length(reader)
  found: list[Scored | None] = [None] * len(counted)
  for part in _batches(reader, counted):
    own = dataclasses.replace(reader, queries=[reader.queries[k] for k in part])
    asked = {
      "along": along,
      "context": before,
      "following": following,
      "eps": eps,
    }
    scores = _score(own, [counted[k] for k in part], **asked)
    for k, one in zip(part, scores, strict=True):
      found[k] = one
  return found


def _batches(reader: Reader, counted: Sequence[int]) -> Iterator[list[int]]:
  """Texts by number: like lengths together, bounded batches."""
  length = [len(query.text) for query in reader.queries]
  order = sorted(
    range(len(counted)), key=lambda k: (length[k], reader.queries[k].text)
  )
  while order:
    rows = _rows(max(length[k] for k in order))
    most = max(1, MAX_LOGITS // (reader.model.vocab_size * rows))
    most = min(MAX_TEXTS, 1 << (most.bit_length() - 1))
    size = min(len(order), most)
    # A batch is filled up to a power of two: fill it with texts, not padding.
    size = 1 << (size.bit_length() - 1)
    yield order[-size:]
    order = order[:-size]


def _rows(longest: int) -> int:
  """Rows of a model call for texts of a length."""
  return 32 if longest <= 64 else 128


def _sizes(longest: int, eps: float) -> tuple[int, int]:
  """Rows of a model call, and nodes of a chunk, for texts of a length."""
  rows = _rows(longest)
  if eps == 0 or longest <= 64:
    return rows, rows
  # A chunk takes one or two turns: long ones have few rows that are padding.
  return (96, 512) if longest <= 512 else (128, 1024)


def _score(reader, counted, *, along, context, following, eps) -> list[Scored]:
  queries = reader.queries
  texts = [
    q.text[len(q.text) - n :] for q, n in zip(queries, counted, strict=True)
  ]
  contexts = [
    q.text[: len(q.text) - n] for q, n in zip(queries, counted, strict=True)
  ]
  longest = max(len(query.text) for query in queries)
  prefix = max(len(query.prefix) for query in queries)
  rows, nodes = _sizes(longest, eps)
  # Slots of a chunk's nodes that do not lead on are free after it.
  more = nodes if eps < 1 else rows
  capacity = 1 << (prefix + longest // 3 + more + 31).bit_length()
  size = EngineConfig.of(
    reader.model,
    reader.tables,
    capacity=max(capacity, 64),
    trust_model=reader.trust_model,
    chunk_bytes=nodes,
    chunk_nodes=nodes,
    chunk_rows=rows,
  )
  keys = [
    (q.prefix, c, q.start) for q, c in zip(queries, contexts, strict=True)
  ]
  order, places = distinct(keys)
  member = begin(size, reader, order)
  # Before bytes with a context, or if the distribution there is wanted, the
  # entries must be evaluated; an empty text is its own context.
  needed = along or any(contexts) or not all(texts)
  before = [key[1] for key in order]
  before += [b""] * (len(member.num_bytes) - len(before))
  total = np.zeros(len(before))
  if needed:
    need = ALL if context else ENTRIES
    size, member, seen = read_texts(size, reader, member, before, need)
    total = np.array([byte.sum(dtype=np.float64) for byte, _ in seen])
  batch = batch_of(len(queries))
  if len(order) != batch or (places != np.arange(batch)).any():
    rest = np.zeros(batch - len(places), np.int32)
    member = take(member, np.concatenate([places, rest]))
  texts = texts + [b""] * (batch - len(texts))
  first = _next(reader.tables, member) if needed else None
  size, member, told = read_texts(
    size, reader, member, texts, ALL, eps=eps, along=along
  )
  last = [None] * batch
  if following:
    last, _ = jax.device_get(_next(reader.tables, member))
  if needed and not reader.trust_model:
    # Entries alone are read at any scale.
    for (byte, _), scale in zip(told, np.asarray(first[1]), strict=True):
      byte[:1] -= scale
  scores = []
  for k in range(len(queries)):
    byte, rows_ = told[k]
    if np.isnan(byte).any() or (following and np.isnan(last[k]).any()):
      raise not_numbers()
    table = None
    if along:
      start = np.asarray(first[0])[k][None]
      table = np.concatenate([start, _normalized(rows_)])
    own = float(total[places[k]]) if context else 0.0
    scores.append(Scored(byte, last[k], own, table))
  return scores


def _normalized(rows):
  norm = np.logaddexp.reduce(rows, 1, keepdims=True)
  return np.where(
    np.isneginf(norm), -np.inf, rows - np.where(np.isneginf(norm), 0, norm)
  )


@Program
def _next(tables, member):
  """Next-byte log-probs, and the log of what they are in all as they come."""
  everyone = jnp.ones(member.num_bytes.shape, bool)
  found = known_logprobs(tables, member, everyone)
  scale = logsumexp(found, 1)
  scale = jnp.where(jnp.isneginf(scale), 0.0, scale)
  # Sums may lose what is no number.
  broken = (jnp.isnan(member.rows.total) & member.evaluated).any(1)
  return jnp.where(broken[:, None], jnp.nan, normalized(found)), scale
