"""Device: what one more byte costs, and what the first calls compile.

  python -m experiments.latency --output=latency.json

Bytes are pushed one by one into a session, which is asked for the next byte's
log-probs each time, after short and long contexts; beside it, in the same
process, a step of plain decoding. And the first text drawn, the first text
scored, and many requests of all kinds after a first one: programs that are
compiled, and CPU seconds. Each part runs in a process of its own, whose cache
has only the tokenizer.
"""

import json
import pathlib
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob import hub, tokenization
from experiments import _runtime, _texts, _timing

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/latency.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")
_ONE = flags.DEFINE_string("one", None, "For this script's own use.")


def tokenizer(config) -> dict[str, Any]:
  """Compiles the tokenizer, so that it is in the cache."""
  return {"tokens": len(tokenization.load_tables(config.model).token_id)}


def keystrokes(config) -> dict[str, Any]:
  """Milliseconds of each byte after contexts of several lengths."""
  lm = byteprob.load(config.model, config.dtype)
  cases = [keystrokes_after(lm, config, size) for size in config.contexts]
  first, last = cases[0], cases[-1]
  return {"cases": cases, "growth": last["ms_median"] / first["ms_median"]}


def keystrokes_after(lm, config, size: int) -> dict[str, Any]:
  """Milliseconds of each byte after one context, and of a plain step."""
  count = config.warm + config.bytes
  [text] = _texts.prompts(config.text, size + count, 1)
  context, rest = text[:size], text[size:]
  session = lm.session(context)
  ms, calls = [], []
  with _timing.programs_counted() as programs:
    for k, byte in enumerate(rest):
      if k == config.warm:
        programs.clear()
      before = _calls(session)
      begun = time.perf_counter()
      session.push(bytes([byte]))
      assert session.logprobs.shape == (257,)
      ms.append(1000 * (time.perf_counter() - begun))
      calls.append(_calls(session) - before)
  ms, calls = ms[config.warm :], calls[config.warm :]
  (plain,), seconds = _timing.settled(
    lambda: lm.sample_tokens(
      [context], jax.random.key(0), config.plain_bytes, method="token"
    )
  )
  step = 1000 * seconds / plain.calls
  return {
    "context": size,
    "bytes": len(ms),
    "ms_mean": statistics.mean(ms),
    "ms_median": statistics.median(ms),
    "calls_per_byte": statistics.mean(calls),
    "programs": len(programs),
    "plain_step_ms": step,
    "over_plain_step": statistics.median(ms) / step,
  }


def _calls(session) -> int:
  """Model calls of a session so far."""
  return int(session._sessions._batch.state.calls[0])


def first_sample(config) -> dict[str, Any]:
  """The first text that a process draws."""
  lm = byteprob.load(config.model, config.dtype)
  [context] = _texts.prompts(config.text, 20, 1)
  key = jax.random.key(0)
  return cost_of(lambda: lm.sample([context], key, 20))


def first_score(config) -> dict[str, Any]:
  """The first text that a process scores."""
  lm = byteprob.load(config.model, config.dtype)
  [text] = _texts.prompts(config.text, 40, 1)
  return cost_of(lambda: lm.byte_logprobs(text))


def cost_of(job: Callable[[], Any]) -> dict[str, Any]:
  """Programs that a job compiles, its seconds, and its CPU seconds."""
  begun, before = time.perf_counter(), _cpu_seconds()
  with _timing.programs_counted() as programs:
    job()
  return {
    "programs": len(programs),
    "compile_seconds": sum(programs),
    "seconds": time.perf_counter() - begun,
    "cpu_seconds": _cpu_seconds() - before,
    "process_cpu_seconds": _cpu_seconds(),
  }


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


CONSTRAINTS = ("[a-z ]*", "[^\n]*\n", "[0-9]{4}-[0-9]{2}-[0-9]{2}")


def requests_of(config) -> list[tuple[bytes, int, dict[str, Any]]]:
  """Contexts, bytes at most and settings of all kinds."""
  rng, source = random.Random(config.seed), _texts.source(config.text)

  def part(longest: int) -> bytes:
    size = min(round(longest ** rng.random()), len(source))
    begin = rng.randrange(len(source) - size + 1)
    # Text that may start anywhere: its characters are whole.
    return source[begin:][:size].decode("utf-8", "ignore").encode() or b"a"

  found = []
  for k in range(config.requests):
    how: dict[str, Any] = {"stop": [part(20) for _ in range(rng.randint(0, 8))]}
    match k % 5:
      case 1:
        how["temperature"] = rng.uniform(0.3, 1.5)
      case 2:
        how["top_p"] = rng.uniform(0.1, 1)
      case 3:
        how["greedy"] = True
      case 4:
        how["constraint"] = rng.choice(CONSTRAINTS)
    found.append((part(1500), round(300 ** rng.random()), how))
  return found


def requests(config) -> dict[str, Any]:
  """Cost of compiling for requests, after one text has been drawn."""
  lm = byteprob.load(config.model, config.dtype)
  key = jax.random.key(0)
  [context] = _texts.prompts(config.text, 20, 1)
  lm.sample([context], key, 20)
  each = []
  for prompt, size, how in requests_of(config):
    found = cost_of(lambda: lm.sample([prompt], key, size, **how))  # noqa: B023
    told = how | {"stop": len(how["stop"])}
    asked = {"prompt_bytes": len(prompt), "max_bytes": size, **told}
    each.append(asked | found)
  return {
    "requests": len(each),
    "programs": sum(one["programs"] for one in each),
    "requests_that_compile": sum(one["programs"] > 0 for one in each),
    "cpu_seconds": sum(one["cpu_seconds"] for one in each),
    "each": each,
  }


PARTS = {
  part.__name__: part
  for part in (tokenizer, keystrokes, first_sample, first_score, requests)
}
"""Each runs in a process of its own; the first fills the cache."""


def report(found: dict[str, Any]) -> str:
  """A few lines of what was found."""
  lines = [
    f"after {case['context']:5} bytes: {case['ms_median']:.2f} ms a byte"
    f" (mean {case['ms_mean']:.2f}), {case['calls_per_byte']:.2f} calls,"
    f" {case['over_plain_step']:.2f} of a plain step"
    f" ({case['plain_step_ms']:.2f} ms)"
    for case in found["keystrokes"]["cases"]
  ]
  lines.append(f"longest over shortest: {found['keystrokes']['growth']:.2f}")
  for name in ("first_sample", "first_score", "requests"):
    part = found[name]
    lines.append(
      f"{name}: {part['programs']} programs, {part['cpu_seconds']:.1f} CPU s"
    )
  return "\n".join(lines)


def run() -> None:
  """Does what the configuration says."""
  config = _CONFIG.value
  if _ONE.value:
    print(json.dumps(PARTS[_ONE.value](config)))
    return
  _texts.source(config.text)
  # Fetched here, so that the processes find it in any cache.
  words = [*sys.argv[1:], f"--config.model={hub.resolve(config.model)}"]
  found: dict[str, Any] = {}
  with _runtime.progress(len(PARTS), unit="part") as bar:
    for name in PARTS:
      with tempfile.TemporaryDirectory() as cache:
        for one in dict.fromkeys(("tokenizer", name)):
          found[one] = _runtime.in_process(
            "experiments.latency",
            *words,
            f"--one={one}",
            cache_dir=cache,
            BYTEPROB_COMPILATION_CACHE="0",
          )
      bar.advance(name)
  print(report(found))
  if _OUTPUT.value:
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {
        "model": pathlib.Path(config.model).name,
        **found,
        "environment": _runtime.public_environment(),
      },
    )


if __name__ == "__main__":
  _runtime.main(run)
