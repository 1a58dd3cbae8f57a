"""Device: how fast whole texts are scored, beside a plain forward.

  python -m experiments.scoring --output=scoring.json

Both are timed in one process, same model, float32, medians after a warm-up,
in turns, so that other work on the machine meets both. The plain forward gives
the log-prob of every token of the tokenizer's own encoding. The exact scores
are those of every byte, over all nodes; `pruned` leaves out nodes with little
of the text's probability (`eps`), and `total` asks for the whole text's
log-prob alone, which is exact over the nodes that lead to its end.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob.models import decoder
from experiments import _runtime, _texts

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/scoring.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")


@functools.partial(jax.jit, static_argnums=0)
def plain(config, params, tokens):
  """Log-prob of each token after the first, `[B, T - 1]`."""
  logits = decoder.forward(config, params, tokens)[:, :-1]
  logs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(logs, tokens[:, 1:, None], axis=2)[..., 0]


def in_turns(jobs: dict[str, Callable[[], Any]], repeats: int):
  """Median seconds of each job; the first run of each is not counted."""
  seconds: dict[str, list[float]] = {name: [] for name in jobs}
  for _ in range(repeats + 1):
    for name, job in jobs.items():
      begun = time.perf_counter()
      jax.block_until_ready(job())
      seconds[name].append(time.perf_counter() - begun)
  return {k: statistics.median(v[1:]) for k, v in seconds.items()}


def measure(
  lm: byteprob.ByteLM, texts: list[bytes], repeats: int, eps: float
) -> dict[str, Any]:
  """Times texts of one length, side by side."""
  config = lm.model.extend.args[0]
  encoded = [lm.encode(text) for text in texts]
  nodes = [len(byteprob.nodes(lm.tables, text)) - 1 for text in texts]

  def rows(count):
    tokens = np.zeros((len(texts), count), np.int32)
    for row, ids in zip(tokens, encoded, strict=True):
      row[: len(ids)] = ids[:count]
    return tokens

  tokens = rows(max(map(len, encoded)))
  # The same number of rows as there are nodes: what the model alone takes.
  as_many = rows(min(max(nodes) + 1, lm.model.context_length))
  params = lm.model.params
  seconds = in_turns(
    {
      "plain": lambda: plain(config, params, tokens),
      "exact": lambda: lm.byte_logprobs_batch(texts),
      "pruned": lambda: lm.byte_logprobs_batch(texts, eps=eps),
      "total": lambda: lm.logprob_batch(texts),
      "as_many_rows": lambda: plain(config, params, as_many),
    },
    repeats,
  )
  size = sum(map(len, texts))
  return {
    "bytes": size,
    "tokens": sum(map(len, encoded)),
    "nodes": sum(nodes),
    "nodes_per_byte": sum(nodes) / size,
    "plain_bytes_per_s": size / seconds["plain"],
    "exact_bytes_per_s": size / seconds["exact"],
    "ratio": seconds["plain"] / seconds["exact"],
    "ratio_pruned": seconds["plain"] / seconds["pruned"],
    "ratio_total": seconds["plain"] / seconds["total"],
    **differences(lm, texts, eps),
    # Rows over the context's length are left out: then it is no bound.
    "bound": seconds["plain"] / seconds["as_many_rows"]
    if max(nodes) < lm.model.context_length
    else None,
    "seconds": seconds,
  }


def differences(
  lm: byteprob.ByteLM, texts: list[bytes], eps: float
) -> dict[str, float]:
  """Errors of the faster ways against the exact log-probs, in nats."""
  exact = lm.byte_logprobs_batch(texts)
  pruned = lm.byte_logprobs_batch(texts, eps=eps)
  upto = [
    np.cumsum(a, dtype=np.float64) - np.cumsum(b, dtype=np.float64)
    for a, b in zip(exact, pruned, strict=True)
  ]
  total = [
    abs(a.sum(dtype=np.float64) - b)
    for a, b in zip(exact, lm.logprob_batch(texts), strict=True)
  ]
  return {
    "eps": eps,
    # Of any prefix, of a byte on average, and of the whole text.
    "pruned_most": float(max(gap.max() for gap in upto)),
    "pruned_mean": float(
      np.mean(
        [np.abs(a - b).mean() for a, b in zip(exact, pruned, strict=True)]
      )
    ),
    "pruned_end": float(max(abs(gap[-1]) for gap in upto)),
    "total_off": float(max(total)),
  }


def run() -> None:
  """Does what the configuration says."""
  config = _CONFIG.value
  sources = {name: _texts.source(name) for name in config.texts}
  lm = byteprob.load(config.model)
  cases = [
    (name, size, batch)
    for name in config.texts
    for size in config.sizes
    for batch in config.batches
  ]
  rows = []
  with _runtime.progress(len(cases), unit="case") as bar:
    for name, size, batch in cases:
      step = (len(sources[name]) - size) // batch
      texts = [sources[name][k * step :][:size] for k in range(batch)]
      found = measure(lm, texts, config.repeats, config.eps)
      rows.append({"text": name, "size": size, "batch": batch, **found})
      bound = found["bound"]
      print(
        f"{name:8}{size:6} bytes x {batch}: {found['plain_bytes_per_s']:9.0f}"
        f" plain, {found['exact_bytes_per_s']:9.0f} exact bytes/s, ratio"
        f" {found['ratio']:.3f} (bound"
        f" {'-' if bound is None else format(bound, '.3f')}),"
        f" {found['nodes_per_byte']:.3f} nodes a byte; pruned"
        f" {found['ratio_pruned']:.3f} ({found['pruned_most']:.1e} nats less at"
        f" most), whole texts {found['ratio_total']:.3f}",
        flush=True,
      )
      bar.advance(f"ratio {found['ratio']:.3f}")
  if _OUTPUT.value:
    model = pathlib.Path(config.model).name
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {
        "model": model,
        "cases": rows,
        "environment": _runtime.public_environment(),
      },
    )


if __name__ == "__main__":
  _runtime.main(run)
