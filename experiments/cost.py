"""Device: what a byte costs, against the length of the text.

  python -m experiments.cost --workdir=runs/cost/smollm2

The paper's sampler calls the model once a byte. Held against it: ours with
every node evaluated (`exact=True`), ours with those that a draw depends on, and
plain decoding of tokens. Model calls, rows of the cache and milliseconds, for
each byte of texts of several lengths; only the loop on the device is timed,
when all is compiled.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax

import byteprob
from experiments import _plots, _runtime, _study, _texts, _timing

METHODS = {
  "every node": {"exact": True},
  "as needed": {},
  "plain tokens": None,
}
"""Settings of the byte-level sampler; None: token by token."""


def examples(config) -> list[str]:
  """Every method at every length."""
  for text in config.texts:
    _texts.source(text)
  return [
    f"{text}|{method}|{size}"
    for text in config.texts
    for size in config.sizes
    for method in METHODS
  ]


def begin(config) -> Callable[[str], _study.Record]:
  """Loads the model."""
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())

  def one(example: str) -> _study.Record:
    text, method, size = example.split("|")
    contexts = _texts.prompts(text, config.context, config.count)
    settings = METHODS[method]

    def draw(context: bytes, number: int):
      key = jax.random.fold_in(jax.random.key(config.seed), number)
      rest = ([context], key, int(size))
      if settings is None:
        return lm.sample_tokens(*rest, method="token")[0]
      return lm.sample(*rest, **settings)[0]

    def draw_all():
      return [draw(c, number) for number, c in enumerate(contexts)]

    seconds, found = [], []
    for _ in range(config.repeats):
      found, taken = _timing.settled(draw_all)
      seconds.append(taken)
    count = sum(len(sample.text) for sample in found)
    rows = [
      len(sample.tokens) if settings is None else sample.slots
      for sample in found
    ]
    return {
      "bytes": count,
      "context": sum(map(len, contexts)),
      "calls": sum(sample.calls for sample in found),
      "rows": sum(rows),
      "seconds": statistics.median(seconds),
    }

  return one


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """By text, method and length, for each byte."""
  texts: dict[str, Any] = {}
  for record in records:
    text, method, size = record["example"].split("|")
    rows = texts.setdefault(text, {name: [] for name in METHODS})
    rows[method].append(
      {
        "size": int(size),
        "calls_per_byte": record["calls"] / record["bytes"],
        "ms_per_byte": 1000 * record["seconds"] / record["bytes"],
        # Those of the context are among them.
        "rows_per_byte": record["rows"] / (record["bytes"] + record["context"]),
      }
    )
  return {"model": config.model, "texts": texts}


MEASURES = {
  "calls_per_byte": "model calls a byte",
  "ms_per_byte": "milliseconds a byte",
  "rows_per_byte": "rows of the cache a byte",
}


def report(summary: _study.Summary) -> str:
  """A line for each method and length."""
  lines = [f"{'':40}calls      ms    rows, a byte (the paper's: 1 call)"]
  for text, methods in summary["texts"].items():
    for method, rows in methods.items():
      for row in rows:
        values = "".join(f"{row[key]:8.3f}" for key in MEASURES)
        lines.append(f"{text:12}{method:14}{row['size']:8} bytes{values}")
  return "\n".join(lines)


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Lines over the length."""
  plt = _plots.pyplot()
  texts = summary["texts"]
  figure, axes = plt.subplots(
    len(texts),
    3,
    figsize=(10, 2.9 * len(texts)),
    layout="constrained",
    squeeze=False,
  )
  for line, (text, methods) in zip(axes, texts.items(), strict=True):
    for axis, (key, title) in zip(line, MEASURES.items(), strict=True):
      if key == "calls_per_byte":
        axis.axhline(1, color="0.5", linewidth=0.9, label="the paper's sampler")
      for style, (method, rows) in zip(
        _plots.STYLES, methods.items(), strict=False
      ):
        axis.plot(
          [row["size"] for row in rows],
          [row[key] for row in rows],
          label=method,
          **style,
        )
      axis.set_xscale("log", base=2)
      axis.set_xticks([row["size"] for row in rows])
      axis.set_xticklabels([row["size"] for row in rows])
      axis.set_xlabel("bytes drawn")
      axis.set_ylabel(title)
      axis.set_ylim(bottom=0)
    line[1].set_title(text, fontsize=9)
  axes[0, 0].legend(frameon=False, fontsize=8)
  figure.suptitle(summary["model"], fontsize=10)
  return {"length": figure}


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/cost.py", STUDY)
