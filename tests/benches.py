"""Host: a tokenizer with its oracle and a fake model, beside the library's."""

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import oracle
import padding
import tokenizers_zoo

from byteprob import lm, scoring
from byteprob.tokenization import compile_tables, huggingface, sentencepiece
from byteprob.tokenization.spec import TokenizerSpec
from byteprob.tokenization.tables import Tables
from byteprob.types import Model

BATCH = 64
"""Texts that are scored side by side; few sizes are compiled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
  """A tokenizer with a fake model: the library's and the oracle's.

  Attributes:
    entry: the tokenizer.
    spec: as the library has read it.
    tables: as it has compiled it.
    padded: the same, of a size that other tokenizers share, if it is small.
    oracle: as it is.
    model: a fake model.
    logits: its rows, in float64.
    reference: the law of both, in float64.
  """

  entry: tokenizers_zoo.Entry
  spec: TokenizerSpec
  tables: Tables
  padded: Tables
  oracle: oracle.Oracle
  model: Model
  logits: Callable[[Sequence[int]], np.ndarray]
  reference: oracle.Reference

  def texts(self) -> list[bytes]:
    """Working texts to try, of at most 16 bytes, the empty one first.

    They are those of the entry and random ones, cut anywhere.
    """
    rng = random.Random(0)
    whole = list(self.entry.texts)
    for size in (1, 2, 3, 4, 6, 8):
      whole += [
        "".join(rng.choices(self.entry.alphabet, k=size)) for _ in range(3)
      ]
    found: set[bytes] = set()
    for ids in self.oracle.encode(whole):
      working = self.oracle.bytes_of(ids)[:16]
      found.update(working[:k] for k in range(1, len(working) + 1))
    chosen = sorted(found)
    rng.shuffle(chosen)
    return [b"", *chosen][: self.entry.many]

  def query(self, text: bytes, padded: bool = True) -> scoring.ScoringQuery:
    """The query of a working text."""
    tables = self.padded if padded else self.tables
    return scoring.ScoringQuery(
      prefix=self.entry.start, text=text, start=tables.start
    )

  def byte_lm(self, **rest) -> lm.ByteLM:
    """The byte-level model, with padded tables."""
    return lm.ByteLM(self.model, self.padded, **rest)


def bench_of(entry: tokenizers_zoo.Entry, seed: int = 0, **rest) -> Bench:
  """The bench of any tokenizer; `rest`: of the fake model."""
  if entry.json is not None:
    names = {"bos": list(entry.start), "eos": list(entry.ends)}
    spec = huggingface.from_json(entry.json, names)
  else:
    spec = sentencepiece._specification(entry.model)
  tables = compile_tables(spec, key=f"{seed} {entry.json} {entry.model}")
  tables = jax.tree.map(jnp.asarray, tables)
  padded = padding.pad_if_small(tables)
  model, logits = fakes.model(len(padded.token_id) + 16, seed, **rest)
  truth = entry.oracle()
  return Bench(
    entry=entry,
    spec=spec,
    tables=tables,
    padded=padded,
    oracle=truth,
    model=model,
    logits=logits,
    reference=oracle.Reference(truth, logits, entry.start),
  )


@functools.cache
def make_bench(name: str) -> Bench:
  """The bench of a tokenizer of the zoo, made once."""
  return bench_of(tokenizers_zoo.ZOO[name](), seed=len(name))


def close(
  found: npt.ArrayLike, wanted: npt.ArrayLike, tolerance: float = 1e-5
) -> None:
  """Checks log-probs: the same are impossible, the others are near."""
  found = np.asarray(found, np.float64)
  wanted = np.asarray(wanted, np.float64)
  assert not np.isnan(found).any()
  np.testing.assert_array_equal(np.isneginf(found), np.isneginf(wanted))
  some = np.isfinite(wanted)
  np.testing.assert_allclose(found[some], wanted[some], rtol=0, atol=tolerance)


def check_shares(
  counts: Mapping[Any, int], wanted: Mapping[Any, float]
) -> None:
  """Chi-square, rare cells together; its mean is the degrees of freedom."""
  total = sum(counts.values())
  assert set(counts) <= {cell for cell, share in wanted.items() if share > 0}
  rows = [(counts[cell], share * total) for cell, share in wanted.items()]
  often = [row for row in rows if row[1] >= 5]
  rare = np.sum([row for row in rows if row[1] < 5], axis=0)
  cells = np.array([*often, *([rare] if np.ndim(rare) and rare[1] else [])])
  statistic = ((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]).sum()
  freedom = len(cells) - 1
  assert freedom >= 2
  assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def scores(
  one: Bench, texts: Sequence[bytes], padded: bool = True, **rest
) -> list[scoring.Score]:
  """Scores texts, always as many at a time."""
  found = []
  tables = one.padded if padded else one.tables
  for first in range(0, len(texts), BATCH):
    part = [one.query(text, padded) for text in texts[first : first + BATCH]]
    filled = part + part[:1] * (BATCH - len(part))
    found += scoring.score(one.model, tables, filled, **rest)[: len(part)]
  return found
