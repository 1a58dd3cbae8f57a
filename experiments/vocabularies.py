"""Host: how far vocabularies overlap, and whether tokens end at the same bytes.

  python -m experiments.vocabularies --workdir=runs/vocabularies \
    --config.tokenizers=smollm2-135m,gemma3-270m,qwen3=path/to/tokenizer.json

Two models can be joined token by token only as far as they share tokens, and
only where both have just ended one. Vocabularies are compared by the bytes
that their tokens spell, and encodings by the bytes at which tokens end.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import byteprob
from byteprob import hub, tokenization
from byteprob.types import Model
from experiments import _plots, _study, _texts, _tokenwise


def named(config) -> dict[str, str]:
  """Names and paths of the tokenizers, from `NAME` or `NAME=PATH`."""
  items = [item.partition("=") for item in config.tokenizers.split(",")]
  return {name: path or name for name, _, path in items}


def examples(config) -> list[str]:
  """All pairs."""
  names = named(config)
  if len(names) < 2:
    raise ValueError("name at least two tokenizers")
  for text in config.texts:
    _texts.source(text)
  return [" ".join(pair) for pair in itertools.combinations(names, 2)]


def tokenizer(path: str) -> byteprob.ByteLM:
  """A tokenizer with a model that is never called."""
  tables = tokenization.load_tables(hub.resolve(path))
  size = 1 + max(tables.info.size, int(np.max(tables.token_id)))
  never = Model(
    init_cache=None, extend=None, params=None, vocab_size=size, context_length=0
  )  # fmt: skip
  return byteprob.ByteLM(never, tables)


def ends(lm: byteprob.ByteLM, text: bytes) -> set[int]:
  """Where tokens of a text's encoding end, in bytes of the text."""
  spelling = _tokenwise.spelling(lm.tables)
  start = lm.tables.info.start_ids
  sizes = [len(spelling[token]) for token in lm.encode(text)[len(start) :]]
  # Where a space is put before a text, it is none of the text's bytes.
  return set((np.cumsum(sizes) - (sum(sizes) - len(text))).tolist())


def begin(config) -> Callable[[str], _study.Record]:
  """Loads tokenizers as they are asked for."""
  names = named(config)
  texts = {
    name: [
      part.decode("utf-8", "ignore").encode()
      for part in _texts.prompts(name, config.size, config.count)
    ]
    for name in config.texts
  }

  @functools.cache
  def known(name: str) -> tuple[set[bytes], dict[str, list[set[int]]]]:
    lm = tokenizer(names[name])
    words = set(_tokenwise.spelling(lm.tables).values())
    where = {
      kind: [ends(lm, part) for part in parts] for kind, parts in texts.items()
    }
    return words, where

  def one(example: str) -> _study.Record:
    (a, at_a), (b, at_b) = map(known, example.split(" "))
    return {
      "sizes": [len(a), len(b)],
      "shared": len(a & b),
      "texts": {
        kind: {
          "ends": [
            sum(map(len, at_a[kind])), sum(map(len, at_b[kind])),
          ],
          "both": sum(
            len(x & y) for x, y in zip(at_a[kind], at_b[kind], strict=True)
          ),
          "bytes": sum(map(len, texts[kind])),
        }
        for kind in texts
      },
    }  # fmt: skip

  return one


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """Of each pair: what both share, over what either has."""
  pairs = {}
  for record in records:
    either = sum(record["sizes"]) - record["shared"]
    pairs[record["example"]] = {
      "sizes": record["sizes"],
      "shared": record["shared"],
      "shared_of_all": record["shared"] / either,
      "shared_of_smaller": record["shared"] / min(record["sizes"]),
      "ends": {
        kind: found["both"] / (sum(found["ends"]) - found["both"])
        for kind, found in record["texts"].items()
      },
      "bytes_per_token": {
        kind: [found["bytes"] / count for count in found["ends"]]
        for kind, found in record["texts"].items()
      },
    }
  return {"tokenizers": list(named(config)), "pairs": pairs}


def report(summary: _study.Summary) -> str:
  """A line a pair."""
  lines = [
    f"{'pair':32}{'shared tokens':>14}{'of all':>8}   token ends in common"
  ]
  for name, found in summary["pairs"].items():
    same = ", ".join(f"{k} {v:.3f}" for k, v in found["ends"].items())
    lines.append(
      f"{name:32}{found['shared']:14}{found['shared_of_all']:8.3f}   {same}"
    )
  return "\n".join(lines)


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Squares of pairs: vocabularies, and where tokens end in each text."""
  plt = _plots.pyplot()
  names = summary["tokenizers"]
  kinds = list(next(iter(summary["pairs"].values()))["ends"])
  titles = {"": "tokens in common, of all"} | {
    kind: f"token ends in common: {kind}" for kind in kinds
  }
  side, rows = 1.2 + 0.42 * len(names), -(-len(titles) // 2)
  figure, axes = plt.subplots(
    rows, 2, figsize=(2 * side, rows * side), layout="constrained"
  )
  for axis in axes.flat[len(titles) :]:
    axis.set_axis_off()
  for axis, (kind, title) in zip(axes.flat, titles.items(), strict=False):
    values = np.eye(len(names))
    for name, found in summary["pairs"].items():
      i, j = map(names.index, name.split(" "))
      value = found["ends"][kind] if kind else found["shared_of_all"]
      values[i, j] = values[j, i] = value
    axis.imshow(values, cmap="cividis", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(values):
      color = "black" if value > 0.45 else "white"
      axis.text(
        j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7
      )
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title, fontsize=9)
    axis.spines[:].set_visible(False)
  return {"overlap": figure}


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/vocabularies.py", STUDY, ValueError)
