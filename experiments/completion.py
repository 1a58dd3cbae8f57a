"""Device: a text cut anywhere, and how five ways of sampling go on with it.

  python -m experiments.completion --workdir=runs/completion/smollm2

Each prompt ends at a random character of a text. Byte by byte, from a drawn
cover, and with the three usual ways of prompting with tokens, it is
completed, greedily and by sampling (temperature, top-p and top-k act on bytes
in the first way and on tokens in the others), and the first word of the
completion is held against the text's. Beside that: the log-prob that each way
gives to the text's own continuation; and, over long generations, what the
exact model says of the bytes that each way has drawn.
"""

import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import byteprob
from byteprob import arguments
from experiments import (
  _estimates,
  _plots,
  _runtime,
  _study,
  _texts,
  _tokenwise,
)

METHODS = ("byte", "cover", "token", "healing", "alignment")
SCORE, LONG = "score", "long"


class Cut(NamedTuple):
  """A text cut in two."""

  prompt: bytes
  rest: bytes


def cuts(name: str, config) -> list[Cut]:
  """Random cuts of a text, the same whenever they are asked for.

  Raises:
    ByteprobError: the text is too short, or has hardly any words.
  """
  text = _texts.source(name).decode("utf-8", "ignore")
  least = config.context + config.reach
  if len(text) <= least:
    raise byteprob.ByteprobError(
      f"{name} has {len(text)} characters; it takes more than {least}"
    )
  rng = np.random.default_rng(config.seed)
  # A word must come soon: a line of dashes says little.
  found: list[Cut] = []
  for _ in range(100 * config.prompts):
    at = int(rng.integers(config.context, len(text) - config.reach))
    rest = text[at : at + config.reach]
    if target(rest):
      prompt = text[at - config.context : at]
      found.append(Cut(prompt.encode(), rest.encode()))
    if len(found) == config.prompts:
      return found
  raise byteprob.ByteprobError(f"{name} has hardly any words to complete")


def target(rest: str) -> str | None:
  """The rest of a word, or the next word with the characters before it."""
  found = re.match(r"\W{0,8}\w+(?=\W)", rest)
  return found and found.group()


def matches(completion: bytes, rest: bytes) -> bool:
  """Whether a completion has the text's own next word, and no longer one."""
  word = target(rest.decode("utf-8", "ignore"))
  text = completion.decode("utf-8", "ignore")
  return text.startswith(word) and not re.match(r"\w", text[len(word) :])


def groups(config) -> int:
  """Batches of prompts."""
  return -(-config.prompts // config.batch)


def examples(config) -> list[str]:
  """Texts, what is done, by which way, and which batch."""
  found = []
  for name in config.texts:
    _texts.source(name)
    numbers = range(groups(config))
    for setting in config.settings:
      for method in METHODS:
        found += [f"{name}|{setting}|{method}|{k}" for k in numbers]
    found += [f"{name}|{SCORE}|all|{k}" for k in numbers]
    found += [f"{name}|{LONG}|{method}|0" for method in METHODS]
  return found


def begin(config) -> Callable[[str], _study.Record]:
  """Loads the model."""
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())
  all_cuts = functools.cache(lambda name: cuts(name, config))
  settings = config.settings.to_dict()
  # Of the prompts, whatever the batch.
  keys = arguments.keys(jax.random.key(config.seed), config.prompts)
  ready: set[tuple[str | int, ...]] = set()

  def complete(method, contexts, max_bytes, first, **how):
    key = keys[first : first + len(contexts)]
    begun = time.perf_counter()
    if method == "byte":
      found = lm.sample(contexts, key, max_bytes, **how)
    else:
      found = lm.sample_tokens(contexts, key, max_bytes, method=method, **how)
    seconds = time.perf_counter() - begun
    # The first of its kind compiles.
    kind = method, len(contexts), max_bytes, *how
    told = seconds if kind in ready else None
    ready.add(kind)
    return found, told

  def one(example: str) -> _study.Record:
    name, setting, method, number = example.split("|")
    first = int(number) * config.batch
    own = all_cuts(name)[first : first + config.batch]
    if setting == SCORE:
      return {"nats": scored(lm, own, config.scored)}
    if setting == LONG:
      own = all_cuts(name)[: config.long.texts]
      contexts = [cut.prompt for cut in own]
      found, _ = complete(method, contexts, config.long.max_bytes, 0)
      texts = [sample.text for sample in found]
      rows = lm.byte_logprobs_batch(texts, contexts)
      return {"nats": [[-float(v) for v in row] for row in rows]}
    contexts = [cut.prompt for cut in own]
    how = settings[setting]
    found, seconds = complete(method, contexts, config.max_bytes, first, **how)
    return {
      "matches": [
        int(matches(sample.text, cut.rest))
        for sample, cut in zip(found, own, strict=True)
      ],
      "calls": [sample.calls for sample in found],
      "bytes": [len(sample.text) for sample in found],
      "seconds": seconds,
      "texts": [sample.text.decode("utf-8", "replace") for sample in found],
    }

  return one


def scored(
  lm: byteprob.ByteLM, own: Sequence[Cut], size: int
) -> dict[str, list[float]]:
  """Minus log-probs of the texts' own next bytes, by each way.

  Of "token" it is what tokens after the prompt's encoding give, unmasked; of
  "healing" and "alignment" the same with the last one or three tokens spelled
  in any way (they themselves choose less well).
  """
  texts = [cut.rest[:size].decode("utf-8", "ignore").encode() for cut in own]
  trusting = byteprob.ByteLM(lm.model, lm.tables, "trust_model")
  found = {"byte": lm.byte_logprobs_batch(texts, [cut.prompt for cut in own])}
  start = lm.tables.info.start_ids
  for method, back in (("token", 0), ("healing", 1), ("alignment", 3)):
    contexts = []
    for cut in own:
      ids = lm.encode(cut.prompt)
      kept = max(len(ids) - back, len(start))
      rest = cut.prompt[len(spelled(lm, ids[len(start) : kept])) :]
      contexts.append([*ids[:kept], rest] if rest else [*ids])
    found[method] = trusting.byte_logprobs_batch(texts, contexts)
  return {
    method: [-float(row.sum()) for row in rows]
    for method, rows in found.items()
  }


def spelled(lm: byteprob.ByteLM, ids: Sequence[int]) -> bytes:
  """The bytes of tokens."""
  spelling = _tokenwise.spelling(lm.tables)
  return b"".join(spelling[token] for token in ids)


def share(values: Sequence[float]) -> dict[str, float]:
  """A mean and its standard error."""
  middle, error = _estimates.ratio(list(values), [1.0] * len(values))
  return {"mean": float(middle), "error": float(error or 0.0)}


def joined(records: Sequence[_study.Record], key: str) -> list[Any]:
  """Lists of several batches as one."""
  return [value for record in records for value in record[key]]


def summarize(config, records: list[_study.Record]) -> _study.Summary:
  """Matches by setting and way, scores, and long generations by position."""
  by: dict[tuple[str, str, str], list[_study.Record]] = {}
  for record in records:
    *key, _ = record["example"].split("|")
    by.setdefault(tuple(key), []).append(record)
  texts = {}
  for name in config.texts:
    told: dict[str, Any] = {"settings": {}, LONG: {}}
    for setting in config.settings:
      rows = {}
      base = joined(by[name, setting, "byte"], "matches")
      for method in METHODS:
        own = by[name, setting, method]
        found = joined(own, "matches")
        size = sum(sum(r["bytes"]) for r in own)
        timed = [r for r in own if r["seconds"]]
        rows[method] = {
          "matches": share(found),
          # Of the same prompts.
          "byte_is_better_by": share(np.subtract(base, found)),
          "calls_per_byte": sum(sum(r["calls"]) for r in own) / max(size, 1),
          "bytes_per_s": sum(sum(r["bytes"]) for r in timed)
          / sum(r["seconds"] for r in timed)
          if timed
          else None,
        }
      told["settings"][setting] = rows
    scores: dict[str, list[float]] = {}
    for record in by[name, SCORE, "all"]:
      for method, values in record["nats"].items():
        scores.setdefault(method, []).extend(values)
    told["nats"] = {
      method: {
        **share(values),
        "over_byte": share(np.subtract(values, scores["byte"])),
      }
      for method, values in scores.items()
    }
    for method in METHODS:
      (record,) = by[name, LONG, method]
      step = config.long.window
      told[LONG][method] = []
      for low in range(0, config.long.max_bytes, step):
        parts = [row[low : low + step] for row in record["nats"]]
        parts = [np.mean(part) / math.log(2) for part in parts if part]
        if parts:
          told[LONG][method].append({"from": low, **share(parts)})
    texts[name] = told
  return {
    "model": config.model,
    "prompts": config.prompts,
    "window": config.long.window,
    "texts": texts,
  }


def report(summary: _study.Summary) -> str:
  """Tables."""
  lines = []
  for name, told in summary["texts"].items():
    lines.append(
      f"{name}, {summary['prompts']} prompts: the next word is the text's"
    )
    for setting, rows in told["settings"].items():
      parts = [
        f"{method} {100 * found['matches']['mean']:.1f} %"
        f" ({found['calls_per_byte']:.2f} calls/byte"
        + (
          f", {found['bytes_per_s']:.0f} bytes/s)"
          if found["bytes_per_s"]
          else ")"
        )
        for method, found in rows.items()
      ]
      lines.append(f"  {setting:10} " + "; ".join(parts))
    parts = [f"{m} {v['mean']:.2f}" for m, v in told["nats"].items()]
    lines.append("  nats of the text's own next bytes: " + "; ".join(parts))
    for method, windows in told[LONG].items():
      values = " ".join(f"{w['mean']:.2f}" for w in windows)
      lines.append(f"  long, {method:10} bits a byte by position: {values}")
  return "\n".join(lines)


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Bars of matches, and lines over long generations."""
  plt = _plots.pyplot()
  texts = summary["texts"]
  figure, axes = plt.subplots(
    1,
    len(texts),
    figsize=(4.6 * len(texts), 3.2),
    layout="constrained",
    sharey=True,
    squeeze=False,
  )
  colors = (
    _plots.BLUE, _plots.SKY, _plots.RED, _plots.ORANGE, _plots.PURPLE,
  )  # fmt: skip
  hatches = ("", "..", "//", "xx", "\\\\")
  width = 0.8 / len(METHODS)
  for axis, (name, told) in zip(axes[0], texts.items(), strict=True):
    settings = list(told["settings"])
    at = np.arange(len(settings))
    for k, method in enumerate(METHODS):
      rows = [told["settings"][s][method]["matches"] for s in settings]
      axis.bar(
        at + (k - 2) * width,
        [100 * row["mean"] for row in rows],
        width,
        yerr=[196 * row["error"] for row in rows],
        label=method,
        color=colors[k],
        hatch=hatches[k],
        edgecolor="white",
        capsize=2,
        error_kw={"linewidth": 0.8},
      )
    axis.set_xticks(at, settings)
    axis.set_title(name, fontsize=9)
  axes[0, 0].set_ylabel("next word as in the text, % (95 % interval)")
  axes[0, 0].set_ylim(bottom=0)
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, frameon=False, ncols=5, loc="outside lower center"
  )
  figure.suptitle(summary["model"], fontsize=10)

  long, axes = plt.subplots(
    1,
    len(texts),
    figsize=(4.2 * len(texts), 3.0),
    layout="constrained",
    sharey=True,
    squeeze=False,
  )
  for axis, (name, told) in zip(axes[0], texts.items(), strict=True):
    for style, method in zip(_plots.STYLES, METHODS, strict=False):
      windows = told[LONG][method]
      axis.errorbar(
        [w["from"] + summary["window"] / 2 for w in windows],
        [w["mean"] for w in windows],
        [w["error"] for w in windows],
        label=method,
        capsize=2,
        **style,
      )
    axis.set_xlabel("bytes since the prompt")
    axis.set_title(name, fontsize=9)
  axes[0, 0].set_ylabel("bits a byte of the drawn text,\nby the exact model")
  axes[0, 0].set_ylim(bottom=0)
  axes[0, -1].legend(frameon=False, fontsize=8)
  return {"matches": figure, "long": long}


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=summarize,
  report=report,
  draw=draw,
)

if __name__ == "__main__":
  _study.main("configs/completion.py", STUDY)
