"""Device: texts drawn byte by byte, shown as they come.

  python -m experiments.generate --prompt='def main(ar' --temperature=0.7
  python -m experiments.generate --prompt='released 20' --constraint=date
  python -m experiments.generate --interactive

The prompt may end anywhere: inside a word, after a space, inside a character.
The same seed gives the same bytes. One text is shown as it is drawn, many
(`--count`) when all are there.

`--interactive` shows what may follow while you type: likely next bytes, and a
continuation, the likeliest one unless flags say how to draw it. Tab accepts it,
Control-D or Control-C ends. Where the input is no terminal, each of its lines
is a text, and what may follow it is printed.
"""

import codecs
import signal
import sys
import time
from collections.abc import Callable

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob import constraints
from experiments import _interactive, _prompts, _runtime

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/generate.py", "What to do.", lock_config=True
)
_FLAGS = (
  flags.DEFINE_string("model", None, "A model's name or path."),
  flags.DEFINE_integer("seed", None, "Of the random numbers."),
  flags.DEFINE_integer("count", None, "How many texts to draw."),
  flags.DEFINE_integer("max_bytes", None, "Bytes to draw at most."),
  flags.DEFINE_float("temperature", None, "Above 0."),
  flags.DEFINE_float("top_p", None, "In (0, 1]."),
  flags.DEFINE_integer("top_k", None, "0 for all symbols."),
  flags.DEFINE_float("min_p", None, "In [0, 1]."),
  flags.DEFINE_bool("greedy", None, "The most probable byte always."),
  flags.DEFINE_float("eps", None, "Leave out what weighs less; 0 for nothing."),
  flags.DEFINE_string(
    "constraint",
    None,
    "A regular expression that the text must match, or date, json_number or"
    " identifier.",
  ),
  flags.DEFINE_enum("utf8", None, ["strict", "any"], "See byteprob.load."),
)
_STOP = flags.DEFINE_multi_string("stop", [], "Stop after this text.")
_INTERACTIVE = flags.DEFINE_bool(
  "interactive", False, "Show what may follow while you type."
)

PATTERNS = {
  "date": constraints.DATE,
  "json_number": constraints.JSON_NUMBER,
  "identifier": constraints.IDENTIFIER,
}
"""Constraints that have names."""

_INTERRUPTED = 130
"""Exit status that tells a shell of a stop by Control-C."""


def run() -> None:
  """Does what the flags say."""
  config = _CONFIG.value
  chosen = {
    holder.name: config[holder.name] if holder.value is None else holder.value
    for holder in _FLAGS
  }
  prompt = _prompts.read("" if _INTERACTIVE.value else config.prompt)
  lm = byteprob.load(chosen["model"], utf8=chosen["utf8"])
  settings = {
    name: chosen[name]
    for name in ("temperature", "top_p", "top_k", "min_p", "greedy", "eps")
  }
  if pattern := chosen["constraint"]:
    settings["constraint"] = PATTERNS.get(pattern, pattern)
  settings["stop"] = tuple(text.encode() for text in _STOP.value)
  key, size = jax.random.key(chosen["seed"]), chosen["max_bytes"]
  check = _check_interrupt()
  try:
    if _INTERACTIVE.value:
      if not any(holder.value is not None for holder in _FLAGS[4:9]):
        settings["greedy"] = True
      sizes = {"choices": config.choices, "ahead": config.ahead}
      _interactive.run(lm, prompt, key, settings, check, **sizes)
    elif chosen["count"] == 1:
      _show_one(prompt, lm.stream(prompt, key, size, **settings), check)
    else:
      sampler = lm.sampler([prompt] * chosen["count"], key, size, **settings)
      _show_many(prompt, sampler, check)
  except KeyboardInterrupt:
    print(flush=True)
    sys.exit(_INTERRUPTED)


def _check_interrupt() -> Callable[[], None]:
  """Makes a function that raises KeyboardInterrupt after Control-C.

  The signal itself raises it, too; but inside a callback Python only reports
  it and goes on.
  """
  came = []

  def note(number, frame):
    came.append(number)
    raise KeyboardInterrupt

  def check():
    if came:
      raise KeyboardInterrupt

  signal.signal(signal.SIGINT, note)
  return check


def _show_one(prompt: bytes, stream, check) -> None:
  show = codecs.getincrementaldecoder("utf-8")("replace").decode
  print(show(prompt), end="", flush=True)
  count, begun = 0, None
  for part in stream:
    # The first call compiles.
    begun = begun or time.monotonic()
    count += len(part)
    print(show(part), end="", flush=True)
    check()
  print(show(b"", True))
  if sys.stderr.isatty() and begun:
    seconds = time.monotonic() - begun
    print(f"{count} bytes in {seconds:.1f} s", file=sys.stderr)


def _show_many(prompt: bytes, sampler, check) -> None:
  samples, going = sampler.samples(), True
  done = 0
  with _runtime.progress(len(samples), unit="text") as bar:
    while going:
      going = sampler.step(rounds=16)
      check()
      samples = sampler.samples()
      for _ in range(done, done := _finished(samples)):
        bar.advance(f"{sum(len(sample.text) for sample in samples)} bytes")
  for number, sample in enumerate(samples):
    print(f"--- {number}: {sample.reason}")
    print((prompt + sample.text).decode("utf-8", "replace"))


def _finished(samples) -> int:
  return sum(sample.reason != "running" for sample in samples)


if __name__ == "__main__":
  _runtime.main(run, ValueError)
