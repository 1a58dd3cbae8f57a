"""Device: what drafts save, and that they change nothing.

  python -m experiments.drafting --output=drafting.json

Each text is drawn once with every source of drafts, with the same random
numbers; all must come out the same, byte by byte. They may differ where two
bytes tie within the rounding of float32; how many do is counted.
"""

import pathlib
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from experiments import _drafts, _runtime, _texts

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/drafting.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")


def run() -> None:
  """Does what the configuration says."""
  config = _CONFIG.value
  names = config.drafts.split(",")
  for text in config.texts:
    _texts.source(text)
  lm = byteprob.load(config.model)
  sources = {name: _drafts.draft_of(name, byteprob.load) for name in names}
  cases = [(text, t) for text in config.texts for t in config.temperatures]
  rows = []
  with _runtime.progress(len(cases) * len(names), unit="run") as bar:
    for text, temperature in cases:
      contexts = _texts.prompts(text, config.context, config.batch)
      first = None
      for name, rest in sources.items():
        samples = lm.sample(
          contexts,
          jax.random.key(config.seed),
          config.max_bytes,
          temperature=temperature,
          **rest,
        )
        first = first or samples
        rows.append(
          {
            "text": text,
            "temperature": temperature,
            "draft": name,
            **compare(lm, contexts, samples, first),
          }
        )
        found = rows[-1]
        print(
          f"{text:12}{temperature:4} {name:14}"
          f"{found['calls_per_token']:6.3f} calls a token, {found['same']} of"
          f" {found['texts']} texts the same, {found['bytes']} bytes",
          flush=True,
        )
        bar.advance(f"{text} {name}")
        result = total(pathlib.Path(config.model).name, rows, names[0])
        if _OUTPUT.value:
          # At once, so that a run that is cut short leaves what it has.
          _runtime.write_json(pathlib.Path(_OUTPUT.value), result)
  print(
    f"{result['bytes_compared']} bytes compared,"
    f" {result['texts_that_differ']} texts differ"
  )


def total(model: str, rows: list[dict[str, Any]], first: str) -> dict[str, Any]:
  """All that is written; drafts from `first` are what is compared with."""
  return {
    "model": model,
    "bytes_compared": sum(r["bytes"] for r in rows if r["draft"] != first),
    "texts_that_differ": sum(r["texts"] - r["same"] for r in rows),
    "cases": rows,
    "environment": _runtime.public_environment(),
  }


def compare(lm, contexts, samples, wanted) -> dict[str, Any]:
  """Model calls a token, and how many texts are as they should be."""
  tokens = 0
  for context, sample in zip(contexts, samples, strict=True):
    before = context.decode("utf-8", "ignore").encode()
    after = (context + sample.text).decode("utf-8", "ignore").encode()
    tokens += len(lm.encode(after)) - len(lm.encode(before))
  return {
    "texts": len(samples),
    "bytes": sum(len(sample.text) for sample in samples),
    "tokens": tokens,
    "calls": sum(sample.calls for sample in samples),
    "calls_per_token": sum(sample.calls for sample in samples) / tokens,
    "same": sum(
      one.text == other.text and one.reason == other.reason
      for one, other in zip(samples, wanted, strict=True)
    ),
  }


if __name__ == "__main__":
  _runtime.main(run, ValueError)
