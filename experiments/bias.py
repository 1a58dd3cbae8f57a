"""Device: how wrong token prompting is, at every cut of every text.

  python -m experiments.bias --workdir=runs/bias/smollm2

At each byte of each text the exact distribution of the next byte is held
against the token-prompted one (encode the prompt, take the first byte of the
next token). Beside that: what the model gives to tokens that its tokenizer
cannot write there; what a test by `encode(decode(t)) == t` would lose of the
text's covers; and bits per byte, of the text and of its tokens.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

import byteprob
from experiments import (
  _estimates,
  _plots,
  _runtime,
  _study,
  _texts,
  _tokenwise,
)

FARTHEST = 8
"""Distances from a token's end from here on are told together."""

PLACES = (
  "letter",
  "digit",
  "other sign",
  "space",
  "line break",
  "paragraph break",
  "inside a character",
)
"""Kinds of places where a prompt can end."""


def place(prefix: bytes) -> str:
  """Kind of the place where a non-empty prompt ends: one of `PLACES`."""
  try:
    last = prefix.decode()[-1]
  except UnicodeDecodeError:
    return "inside a character"
  if prefix.endswith(b"\n"):
    return "paragraph break" if prefix.endswith(b"\n\n") else "line break"
  if last.isspace():
    return "space"
  if last.isalpha():
    return "letter"
  return "digit" if last.isdigit() else "other sign"


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """KL(p || q) in nats, of log-probs, along the last axis."""
  some = p > -np.inf
  with np.errstate(invalid="ignore"):
    terms = np.where(some, np.exp(p) * (p - q), 0.0)
  return np.maximum(terms.sum(-1), 0.0)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Half the sum of absolute differences, of log-probs; `q` may lack some."""
  p, q = np.exp(p), np.exp(q)
  rest = np.maximum(0.0, 1 - q.sum(-1))
  return 0.5 * (abs(p - q).sum(-1) + rest)


def look(lm: byteprob.ByteLM, text: bytes) -> _study.Record:
  """All cuts of a text, the empty prefix left out."""
  found = lm.distributions(text)
  exact = np.asarray(found.exact, np.float64)
  prompted = np.asarray(found.prompted, np.float64)
  asked = np.isfinite(prompted).any(-1)
  values = np.frombuffer(text, np.uint8)
  ids = lm.encode(text)

  def each(values: np.ndarray) -> list[float | None]:
    """One for each cut; None where token prompting has no answer."""
    return [
      float(f"{value:.5g}") if there and math.isfinite(value) else None
      for value, there in zip(values[1:], asked[1:], strict=True)
    ]

  own = exact[np.arange(len(text)), values]
  return {
    "bytes": len(text),
    "tokens": len(ids) - len(lm.tables.info.start_ids),
    "place": [PLACES.index(place(text[:at])) for at in range(1, len(text) + 1)],
    "boundary": found.boundary[1:].tolist(),
    "kl": each(kl(exact, prompted)),
    "total_variation": each(total_variation(exact, prompted)),
    "top_changes": [
      int(a != b) if there else None
      for a, b, there in zip(
        exact.argmax(-1)[1:], prompted.argmax(-1)[1:], asked[1:], strict=True
      )
    ],
    "leaked": each(found.leaked),
    "unfinished": [float(f"{value:.5g}") for value in found.unfinished[1:]],
    "nats": -float(own.sum()),
    "token_nats": -float(_tokenwise.logprobs(lm, ids).sum()),
  }


def examples(config) -> list[str]:
  """Texts by name and number."""
  for name in config.texts:
    _texts.source(name)
  return [f"{name} {k}" for name in config.texts for k in range(config.count)]


def begin(config) -> Callable[[str], _study.Record]:
  """Loads the model."""
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())

  @functools.cache
  def texts(name: str) -> list[bytes]:
    found = _texts.prompts(name, config.size, config.count)
    # The text has an encoding only if it ends with a whole character.
    return [text.decode("utf-8", "ignore").encode() for text in found]

  def one(example: str) -> _study.Record:
    name, number = example.rsplit(" ", 1)
    return look(lm, texts(name)[int(number)])

  return one


def mean(values: Iterable[Sequence[float]]) -> dict[str, Any] | None:
  """Of cuts, text by text: the mean, its standard error, and how many.

  Cuts of one text are no independent draws, so the error is that of the
  texts' sums over their counts (a ratio estimate).
  """
  texts = [text for text in values if len(text)]
  if not texts:
    return None
  counts = list(map(len, texts))
  middle, error = _estimates.ratio(list(map(sum, texts)), counts)
  return {"mean": middle, "error": error, "cuts": sum(counts)}


def chosen(records, key: str, keep: Callable[[_study.Record, int], bool]):
  """A value at the cuts that are kept and have it, text by text."""
  return [
    [
      value
      for at, value in enumerate(record[key])
      if value is not None and keep(record, at)
    ]
    for record in records
  ]


MEASURES = ("kl_bits", "total_variation", "top_changes")


def measures(records, keep) -> dict[str, Any]:
  """Means of the divergences over cuts."""
  values = {
    "kl_bits": [
      [value / math.log(2) for value in text]
      for text in chosen(records, "kl", keep)
    ],
    "total_variation": chosen(records, "total_variation", keep),
    "top_changes": chosen(records, "top_changes", keep),
  }
  return {name: mean(values[name]) for name in MEASURES}


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """By text and distance, and by what the prompt ends with."""
  by_text = {
    name: [r for r in records if r["example"].rsplit(" ", 1)[0] == name]
    for name in config.texts
  }

  def at_distance(distance):
    return lambda r, at: min(r["boundary"][at], FARTHEST) == distance

  def at_place(number):
    return lambda r, at: r["place"][at] == number

  def everywhere(record, at):
    return True

  texts = {}
  for name, own in by_text.items():
    unfinished = chosen(own, "unfinished", everywhere)
    leaked = chosen(own, "leaked", everywhere)
    size = sum(r["bytes"] for r in own) * math.log(2)
    texts[name] = {
      "bytes": sum(r["bytes"] for r in own),
      "bytes_per_token": sum(r["bytes"] for r in own)
      / sum(r["tokens"] for r in own),
      "all": measures(own, everywhere),
      "inside": measures(own, lambda r, at: r["boundary"][at] > 0),
      "distance": [
        measures(own, at_distance(distance)) for distance in range(FARTHEST + 1)
      ],
      "leaked": mean(leaked),
      "most_leaked": max(map(max, leaked)),
      "unfinished": mean(unfinished),
      "most_unfinished": max(map(max, unfinished)),
      "bits_per_byte": sum(r["nats"] for r in own) / size,
      "token_bits_per_byte": sum(r["token_nats"] for r in own) / size,
    }
  return {
    "model": config.model,
    "texts": texts,
    "places": {
      name: {
        **measures(records, at_place(number)),
        "leaked": mean(chosen(records, "leaked", at_place(number))),
        "unfinished": mean(chosen(records, "unfinished", at_place(number))),
      }
      for number, name in enumerate(PLACES)
    },
  }


def report(summary: _study.Summary) -> str:
  """Two tables."""

  def number(found, form="8.3f"):
    return format(found["mean"], form) if found else "-".rjust(8)

  lines = [
    f"{summary['model']}: token prompting against the exact next byte",
    f"{'text':20}{'at ends':>9}{'inside':>8}  KL bits;"
    f"{'TV':>6}{'top':>6} inside; leaked, unfinished; bits a byte, by tokens",
  ]
  for name, found in summary["texts"].items():
    ends, inside = found["distance"][0], found["inside"]
    lines.append(
      f"{name:20} {number(ends['kl_bits'])}{number(inside['kl_bits'])}"
      f"  {number(inside['total_variation'])}{number(inside['top_changes'])}"
      f"  {number(found['leaked'], '9.1e')}"
      f"{number(found['unfinished'], '9.1e')}"
      f"  {found['bits_per_byte']:8.4f}{found['token_bits_per_byte']:8.4f}"
    )
  lines.append(f"{'the prompt ends in':20}{'KL bits':>9}{'TV':>8}{'top':>8}")
  for name, found in summary["places"].items():
    parts = [number(found[key]) for key in MEASURES]
    rest = [number(found[key], "9.1e") for key in ("leaked", "unfinished")]
    lines.append(f"{name:20} {''.join(parts)}  {''.join(rest)}")
  return "\n".join(lines)


TITLES = {
  "kl_bits": "KL(exact ‖ token-prompted), bits",
  "total_variation": "total variation",
  "top_changes": "share of cuts where the top byte changes",
}


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Divergence by distance, and what is lost by what the prompt ends with."""
  plt = _plots.pyplot()
  figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
  distances = range(FARTHEST + 1)
  for axis, key in zip(axes, MEASURES, strict=True):
    for style, (name, found) in zip(
      _plots.STYLES, summary["texts"].items(), strict=False
    ):
      points = [(d, found["distance"][d][key]) for d in distances]
      points = [(d, value) for d, value in points if value]
      axis.errorbar(
        [d for d, _ in points],
        [value["mean"] for _, value in points],
        [value["error"] or 0.0 for _, value in points],
        label=name,
        capsize=2,
        **style,
      )
    axis.set_xlabel("bytes since the last token ended")
    axis.set_ylabel(TITLES[key])
    labels = [*map(str, range(FARTHEST)), f"{FARTHEST}+"]
    axis.set_xticks(distances, labels)
    axis.set_ylim(bottom=0)
  axes[0].legend(frameon=False, fontsize=8)
  figure.suptitle(summary["model"], fontsize=10)

  lost, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
  names = [n for n in PLACES if summary["places"][n]["unfinished"]]
  for axis, key, title in (
    (axes[0], "unfinished", "covers that a round trip rejects"),
    (axes[1], "leaked", "tokens that cannot be written there"),
  ):
    kept = [n for n in names if summary["places"][n][key]]
    values = [summary["places"][n][key] for n in kept]
    axis.barh(
      kept,
      [value["mean"] for value in values],
      xerr=[value["error"] or 0.0 for value in values],
      color=_plots.BLUE,
      capsize=2,
    )
    axis.invert_yaxis()
    axis.set_xlabel(f"probability of {title}")
    axis.set_xscale("symlog", linthresh=1e-5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 1e-4, 1e-3, 1e-2, 1e-1, 1])
  axes[0].set_ylabel("the prompt ends in")
  lost.suptitle(summary["model"], fontsize=10)
  return {"distance": figure, "lost": lost}


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/bias.py", STUDY)
