"""Device: bits per byte of any text, byte by byte and by its tokens.

  python -m experiments.bits_per_byte --workdir=runs/bits \
    --config.data=path/to/wiki.test.txt

The text is cut at line ends into documents, each scored on its own. At byte
level a document costs the log-prob of its bytes, summed over all ways of
writing it in tokens; at token level that of its own encoding alone, and so
never less by more than what the model gives to tokens that cannot be written
(which the byte level takes away). Total bits over total bytes.

With `--config.window` a document may be longer than the model's context: it is
scored in parts of so many bytes, `--config.stride` of them at a time, each
given those before it in its part. Tokens are counted in the part in which they
end.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import byteprob
from byteprob import windows
from experiments import (
  _estimates,
  _plots,
  _runtime,
  _study,
  _texts,
  _tokenwise,
)


@functools.cache
def documents(data: str, size: int, most: int) -> list[bytes]:
  """A text's documents.

  Args:
    data: see `_texts.source`, or `hub:NAME:CONFIG:SPLIT:FIELD`.
    size: bytes of each at most; longer lines are cut at characters.
    most: how many at most, evenly spread over the text; 0 for all.

  Raises:
    ByteprobError: there is no such text, or it is empty.
  """
  found = list(_pieces(_texts.source(data), size))
  if not found:
    raise byteprob.ByteprobError(f"{data} is empty")
  if most and len(found) > most:
    found = [found[k * len(found) // most] for k in range(most)]
  return found


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
  """Whole lines, up to `size` bytes together."""
  part = b""
  for line in text.splitlines(keepends=True):
    if part and len(part) + len(line) > size:
      yield part
      part = b""
    while len(line) > size:
      # A text has an encoding only if it ends with a whole character.
      head = line[:size].decode("utf-8", "ignore").encode()
      yield head
      line = line[len(head) :]
    part += line
  if part:
    yield part


def examples(config) -> list[str]:
  """Documents by their numbers."""
  found = documents(config.data, config.size, config.most)
  return [str(k) for k in range(len(found))]


def begin(config) -> Callable[[str], _study.Record]:
  """Loads the model."""
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())
  texts = documents(config.data, config.size, config.most)
  own = _Tokens(lm)
  how = {"window": config.window or None, "stride": config.stride or None}

  def one(example: str) -> _study.Record:
    text = texts[int(example)]
    # First, for what makes no sense.
    nats = -lm.logprob(text, **how)
    parts = [windows.Part(0, 0, len(text))]
    if config.window:
      parts = windows.parts(text, **how)
    found = np.sum([own.nats(text, part) for part in parts], 0)
    return {
      "bytes": len(text),
      "tokens": int(found[1]),
      "nats": nats,
      "token_nats": float(found[0]),
    }

  return one


class _Tokens:
  """A model's tokens of texts."""

  def __init__(self, lm: byteprob.ByteLM):
    self._lm = lm
    self._spelling = _tokenwise.spelling(lm.tables)

  def nats(self, text: bytes, part: windows.Part) -> tuple[float, int]:
    """Nats of the tokens that end inside a part, and how many these are."""
    ids = self._lm.encode(text[part.start : part.stop])
    values = _tokenwise.logprobs(self._lm, ids)
    start = len(self._lm.tables.info.start_ids)
    sizes = [len(self._spelling[token]) for token in ids[start:]]
    # The space that some tokenizers put before a text is none of its bytes.
    past = part.stop - part.start - sum(sizes) + np.cumsum(sizes)
    inside = past > part.first - part.start
    return -float(values[start - 1 :][inside].sum()), int(inside.sum())


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """Totals, and the standard error of their ratio over documents."""
  size = sum(record["bytes"] for record in records)
  summary: _study.Summary = {
    "model": config.model,
    "data": config.data.rsplit("/", 1)[-1],
    "documents": len(records),
    "bytes": size,
    "bytes_per_token": size / sum(record["tokens"] for record in records),
    "of_each": [
      [record[key] / record["bytes"] / math.log(2) for record in records]
      for key in ("nats", "token_nats")
    ],
  }
  for name, key in (("byte", "nats"), ("token", "token_nats")):
    nats, error = _estimates.ratio(
      [record[key] for record in records],
      [record["bytes"] for record in records],
    )
    summary[name] = {
      "bits_per_byte": nats / math.log(2),
      "error": (error or 0.0) / math.log(2),
    }
  return summary


def report(summary: _study.Summary) -> str:
  """Two lines."""
  lines = [
    f"{summary['model']} on {summary['data']}: {summary['bytes']} bytes in"
    f" {summary['documents']} documents,"
    f" {summary['bytes_per_token']:.2f} bytes a token"
  ]
  for name in ("byte", "token"):
    found = summary[name]
    lines.append(
      f"{name:6}{found['bits_per_byte']:.4f} bits a byte, standard error"
      f" {found['error']:.4f}"
    )
  return "\n".join(lines)


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Plots bits per byte saved against the bits of a document's own tokens."""
  plt = _plots.pyplot()
  figure, axis = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
  exact, tokens = summary["of_each"]
  saved = [own - byte for own, byte in zip(tokens, exact, strict=True)]
  axis.scatter(tokens, saved, s=10, color=_plots.BLUE, linewidths=0)
  axis.axhline(0, color="0.5", linewidth=0.8)
  axis.set_xlabel("bits a byte of the document's own tokens")
  axis.set_ylabel("bits a byte less, byte by byte")
  axis.set_title(f"{summary['model']}, {summary['data']}", fontsize=9)
  return {"documents": figure}


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/bits_per_byte.py", STUDY)
