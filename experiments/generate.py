"""Device: a text drawn byte by byte, shown as it comes.

  python -m experiments.generate --prompt='def main(ar' --temperature=0.7

The prompt may end anywhere: inside a word, after a space, inside a character.
The same seed gives the same bytes.
"""

import codecs
import sys
import time

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from experiments import _prompts, _runtime

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/generate.py", "What to do.", lock_config=True
)
_MODEL = flags.DEFINE_string("model", None, "A model's name or path.")
_SEED = flags.DEFINE_integer("seed", None, "Of the random numbers.")
_MAX_BYTES = flags.DEFINE_integer("max_bytes", None, "Bytes to draw at most.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Above 0.")
_TOP_P = flags.DEFINE_float("top_p", None, "In (0, 1].")
_TOP_K = flags.DEFINE_integer("top_k", None, "0 for all symbols.")
_GREEDY = flags.DEFINE_bool("greedy", None, "The most probable byte always.")
_STOP = flags.DEFINE_multi_string("stop", [], "Stop after this text.")
_UTF8 = flags.DEFINE_enum("utf8", None, ["strict", "any"], "See byteprob.load.")

_FLAGS = (
  _MODEL, _SEED, _MAX_BYTES, _TEMPERATURE, _TOP_P, _TOP_K, _GREEDY, _UTF8
)  # fmt: skip


def run() -> None:
  """Does what the flags say."""
  config = _CONFIG.value
  chosen = {
    holder.name: config[holder.name] if holder.value is None else holder.value
    for holder in _FLAGS
  }
  prompt = _prompts.read(config.prompt)
  _prompts.keep_compiled()
  lm = byteprob.load(chosen["model"], utf8=chosen["utf8"])
  stream = lm.stream(
    prompt,
    jax.random.key(chosen["seed"]),
    chosen["max_bytes"],
    temperature=chosen["temperature"],
    top_p=chosen["top_p"],
    top_k=chosen["top_k"],
    greedy=chosen["greedy"],
    stop=tuple(text.encode() for text in _STOP.value),
  )
  show = codecs.getincrementaldecoder("utf-8")("replace").decode
  print(show(prompt), end="", flush=True)
  count, begun = 0, None
  for part in stream:
    # The first call compiles.
    begun = begun or time.monotonic()
    count += len(part)
    print(show(part), end="", flush=True)
  print(show(b"", True))
  if sys.stderr.isatty() and begun:
    seconds = time.monotonic() - begun
    print(f"{count} bytes in {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
  _runtime.main(run, ValueError)
