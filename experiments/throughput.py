"""Device: how fast texts are drawn byte by byte, beside plain token decoding.

  python -m experiments.throughput --output=throughput.json

Both run in one process, in turns: same model, prompts, keys and temperature.
What is timed is the loop on the device, without the prompt's own pass; plain
decoding draws about as many bytes, token by token, from the tokenizer's
encoding of the prompt. Its bytes/s are told for the exact texts, by its time
for a token and their tokens: drawn texts differ in bytes a token. Medians;
what is compiled is timed apart.
"""

import functools
import itertools
import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob import models
from experiments import _plots, _runtime, _texts, _timing, _transformers

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/throughput.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")
_FIGURE = flags.DEFINE_string("figure", None, "Draw the results here.")

SHAPES = {
  "1b": {
    "width": 2048, "heads": 32, "kv_heads": 8, "head_dim": 64,
    "mlp_width": 8192, "layers": 16,
  },
  "7b": {
    "width": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128,
    "mlp_width": 11008, "layers": 32,
  },
}  # fmt: skip
"""Llama 3.2 1B's and Llama 2 7B's."""

_ENOUGH = 2**30


def with_shape(lm: byteprob.ByteLM, name: str, dtype: str) -> byteprob.ByteLM:
  """A model with random weights and the tokenizer of another."""
  if name not in SHAPES:
    raise byteprob.ByteprobError(
      f"there is no shape {name!r}: name one of {', '.join(SHAPES)}"
    )
  shape = dict(SHAPES[name])
  layers = (models.Layer(rope=models.Rope(theta=10_000.0)),) * shape.pop(
    "layers"
  )
  config = models.DecoderConfig(
    vocab_size=lm.model.vocab_size,
    context_length=8192,
    layers=layers,
    attention_scale=shape["head_dim"] ** -0.5,
    precision="default" if dtype == "bfloat16" else "highest",
    **shape,
  )
  params = models.init_params(config, jax.random.key(0))
  return byteprob.ByteLM(models.make_model(config, params, dtype), lm.tables)


def groups(case: dict[str, Any], texts: int) -> list[list[bytes]]:
  """How the texts of a case begin: at least `texts`, `batch` side by side."""
  size = case["batch"]
  count = -(-max(texts, size) // size)
  found = _texts.prompts(case["text"], case["context"], count * size)
  return [found[k * size :][:size] for k in range(count)]


def jobs_of(lm, case, max_bytes, seed) -> dict[str, Callable]:
  """Jobs that are timed against each other, by name.

  Each takes prompts and, optionally, a number of rounds. It returns the texts
  and the number of model calls for all of them.
  """
  key = jax.random.key(seed)
  ours = byteprob.ByteLM(lm.model, lm.tables, case["validity"])
  common = {"temperature": case["temperature"]}

  def exact(contexts, rounds=_ENOUGH):
    sampler = ours.sampler(contexts, key, max_bytes, eps=case["eps"], **common)
    left = sampler.batch.run(sampler.request, rounds=rounds)
    # The last round finds nothing that it needs the model for.
    return sampler.samples(), rounds - left - 1

  def plain(contexts, rounds=None):
    del rounds
    found = lm.sample_tokens(contexts, key, max_bytes, method="token", **common)
    return found, max(sample.calls for sample in found)

  return {"exact": exact, "plain": plain}


def measure(
  lm: byteprob.ByteLM,
  jobs: dict[str, Callable],
  prompts: list[list[bytes]],
  repeats: int,
) -> dict[str, Any]:
  """Times the jobs in turns, when all that they need is compiled."""
  first: list[float] = []
  for contexts in prompts:
    for name, job in jobs.items():
      with _timing.loops_timed() as timed:
        job(contexts, 1)
      if name == "exact":
        first.append(sum(timed.seconds))
  seconds: dict[str, list[list[float]]] = {name: [] for name in jobs}
  found: dict[str, list] = {}
  calls: dict[str, int] = {}
  for _ in range(repeats):
    for name in jobs:
      seconds[name].append([])
      found[name], calls[name] = [], 0
    for contexts in prompts:
      for name, job in jobs.items():
        part = functools.partial(job, contexts)
        (drawn, called), taken = _timing.settled(part)
        found[name] += drawn
        calls[name] += called
        seconds[name][-1].append(taken)
  whole = {
    name: statistics.median(map(sum, runs)) for name, runs in seconds.items()
  }
  exact = found["exact"]
  contexts = list(itertools.chain.from_iterable(prompts))
  before = [len(lm.encode(_whole(context))) for context in contexts]
  after = [
    len(lm.encode(_whole(context + sample.text)))
    for context, sample in zip(contexts, exact, strict=True)
  ]
  tokens = sum(after) - sum(before)
  size = sum(len(sample.text) for sample in exact)
  plain_tokens = sum(sample.calls for sample in found["plain"])
  plain = whole["plain"] / plain_tokens * tokens
  return {
    "bytes": size,
    "tokens": tokens,
    # Of a batch: the calls while one of its texts gets a token.
    "calls_per_token": calls["exact"] * len(prompts[0]) / tokens,
    # A call has one for each text that waits.
    "rows_per_token": sum(sample.calls for sample in exact) / tokens,
    # The most rows in use, over those of the same text's tokens.
    "cache_rows": max(
      sample.slots / rows for sample, rows in zip(exact, after, strict=True)
    ),
    "error": statistics.mean(sample.error for sample in exact),
    "bytes_per_s": size / whole["exact"],
    "plain_bytes_per_s": size / plain,
    "plain_tokens_per_s": plain_tokens / whole["plain"],
    "ratio": plain / whole["exact"],
    # The one round that was run beside is less than a tenth of a second.
    "compile_seconds": first[0],
    "seconds": {name: list(map(sum, runs)) for name, runs in seconds.items()},
  }


def _whole(text: bytes) -> bytes:
  """A text without the part of a character at its end."""
  return text.decode("utf-8", "ignore").encode()


def cases_of(config) -> list[dict[str, Any]]:
  """The base, and the base with one thing changed, for all changes."""
  base = config.base.to_dict()
  return [base] + [
    base | {name: value}
    for name, values in config.vary.items()
    for value in values
    if value != base[name]
  ]


def label(case: dict[str, Any], base: dict[str, Any]) -> str:
  """Settings in which a case differs from the base."""
  differ = [f"{k}={v}" for k, v in case.items() if v != base[k]]
  return ", ".join(differ) or "base"


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
  """Bars: bytes/s as a share of plain decoding's, and calls a token."""
  pyplot = _plots.pyplot()
  cases = found["cases"]
  names = [label(case["case"], cases[0]["case"]) for case in cases]
  height = 1 + 0.28 * len(cases)
  figure, axes = pyplot.subplots(1, 2, figsize=(8, height), sharey=True)
  for axis, key, title, goal in (
    (axes[0], "ratio", "bytes/s over plain token decoding's", 1.0),
    (axes[1], "calls_per_token", "model calls per token of the text", 1.0),
  ):
    values = [case[key] for case in cases]
    bars = axis.barh(names, values, color=_plots.BLUE)
    axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axis.axvline(goal, color="black", linewidth=0.8, linestyle="--")
    axis.set_xlabel(title)
    axis.set_xlim(0, 1.18 * max([goal, *values]))
  axes[0].invert_yaxis()
  figure.suptitle(found["model"], fontsize=10)
  figure.tight_layout()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=160)
  pyplot.close(figure)


def run() -> None:
  """Does what the configuration says."""
  # It tells how long compiling takes.
  jax.config.update("jax_enable_compilation_cache", False)
  config = _CONFIG.value
  cases = cases_of(config)
  for case in cases:
    _texts.source(case["text"])
  lm = byteprob.load(config.model, dtype=config.dtype)
  if config.shape:
    lm = with_shape(lm, config.shape, config.dtype)
  name = pathlib.Path(config.model).name + (config.shape and f" {config.shape}")
  result = {
    "model": name,
    **{key: config[key] for key in _SETTINGS},
    "beside_transformers": None,
  }
  result["cases"] = _done_before(result)
  known = [found["case"] for found in result["cases"]]
  left = [case for case in cases if case not in known]
  done = len(cases) - len(left)
  with _runtime.progress(len(cases), done=done, unit="case") as bar:
    for case in left:
      jobs = jobs_of(lm, case, config.max_bytes, config.seed)
      prompts = groups(case, config.texts)
      found = measure(lm, jobs, prompts, config.repeats)
      result["cases"].append({"case": case, **found})
      _write(result)
      name = label(case, cases[0])
      print(
        f"{name:24}{found['bytes_per_s']:8.1f} bytes/s,"
        f" {found['plain_bytes_per_s']:8.1f} plain, ratio"
        f" {found['ratio']:.3f}, {found['calls_per_token']:.3f} calls and"
        f" {found['rows_per_token']:.3f} rows a token, cache"
        f" {found['cache_rows']:.2f}, error {found['error']:.1e},"
        f" {found['compile_seconds']:.0f} s to compile",
        flush=True,
      )
      bar.advance(name)
      _runtime.forget_compiled()
  beside = _beside_transformers(lm, config, result["cases"][0]["case"])
  if beside:
    result["beside_transformers"] = beside
    print(
      f"plain decoding {beside['plain_tokens_per_s']:.1f} tokens/s,"
      f" transformers {beside['transformers_tokens_per_s']:.1f}"
    )
  _write(result)


_SETTINGS = ("dtype", "texts", "max_bytes", "repeats", "seed")
"""Settings that all cases of a file share, beside the model."""


def _done_before(result) -> list[dict[str, Any]]:
  """The cases that are in the output file: a run that was cut short goes on."""
  path = pathlib.Path(_OUTPUT.value or "")
  if not path.is_file():
    return []
  found = json.loads(path.read_text())
  if any(found.get(key) != result[key] for key in ("model", *_SETTINGS)):
    raise byteprob.ByteprobError(
      f"{path} holds another run's results; name another --output, or delete it"
    )
  return found["cases"]


def _write(result: dict[str, Any]) -> None:
  """Writes what there is, so that a run that is cut short leaves it."""
  if _OUTPUT.value:
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {**result, "environment": _runtime.public_environment()},
    )
  if _FIGURE.value:
    draw(result, pathlib.Path(_FIGURE.value))


def _beside_transformers(lm, config, case) -> dict[str, float] | None:
  """Tokens a second of plain decoding and of transformers' own, in turns.

  Of one text, float32; None where transformers has no such model here.
  """
  if not (config.transformers and _transformers.available()):
    return None
  prompt = groups(case, config.texts)[0][:1]
  plain = jobs_of(lm, case, config.max_bytes, config.seed)["plain"]
  plain(prompt)
  ours, theirs = [], []
  for _ in range(3):
    seconds = _transformers.seconds_per_token(
      lm.model.extend.args[0], len(lm.encode(prompt[0])), 100, 1
    )
    if seconds is None:
      return None
    theirs.append(1 / seconds)
    (_, calls), taken = _timing.settled(functools.partial(plain, prompt))
    ours.append(calls / taken)
  return {
    "plain_tokens_per_s": statistics.median(ours),
    "transformers_tokens_per_s": statistics.median(theirs),
  }


if __name__ == "__main__":
  _runtime.main(run)
