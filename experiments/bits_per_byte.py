"""Device: bits per byte of any text, byte by byte and by its tokens.

  python -m experiments.bits_per_byte --workdir=runs/bits \
    --config.data=path/to/wiki.test.txt

The text is cut at line ends into documents, each scored on its own. At byte
level a document costs the log-prob of its bytes, summed over all ways of
writing it in tokens; at token level that of its own encoding alone, and so
never less by more than what the model gives to tokens that cannot be written
(which the byte level takes away). Total bits over total bytes.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import byteprob
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

  def one(example: str) -> _study.Record:
    text = texts[int(example)]
    ids = lm.encode(text)
    return {
      "bytes": len(text),
      "tokens": len(ids) - len(lm.tables.info.start_ids),
      "nats": -float(lm.byte_logprobs(text).sum()),
      "token_nats": -float(_tokenwise.logprobs(lm, ids).sum()),
    }

  return one


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
  """What each document's own tokens cost, and what the bytes save."""
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
