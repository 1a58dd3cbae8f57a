"""Host: what it takes to compile tokenizers, and to load them again.

  python -m experiments.tables --output=tables.json \
    --tokenizers=gemma3=path/to/tokenizer.json,stdlib-bpe

Each tokenizer is compiled in a process of its own with an empty cache, and
loaded from that cache in another, which reads it for the first time (but for
the operating system, which may still have it in memory).
"""

import json
import pathlib
import resource
import tempfile
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from byteprob import hub, store, tokenization
from byteprob.tokenization import cache
from experiments import _runtime

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/tables.py", "What to do.", lock_config=True
)
_TOKENIZERS = flags.DEFINE_list(
  "tokenizers", None, "Names or paths; NAME=PATH gives a path a name."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")
_ONE = flags.DEFINE_string("one", None, "For this script's own use.")


def measure(tokenizer: str, utf8: str) -> dict[str, Any]:
  """Loads a tokenizer as users do, and times the parts.

  Returns:
    `seconds` of the whole, and of each part that there was; `mib`, the
    process's peak; sizes.
  """
  seconds: dict[str, float] = {}

  def timed(owner, name, key):
    function = getattr(owner, name)

    def call(*args, **kwargs):
      begun = time.perf_counter()
      try:
        return function(*args, **kwargs)
      finally:
        seconds[key] = time.perf_counter() - begun

    setattr(owner, name, call)

  timed(tokenization, "read_spec", "read")
  timed(tokenization, "compile_tables", "compile")
  timed(cache, "save", "save")
  begun = time.perf_counter()
  tables = tokenization.load_tables(tokenizer, utf8)
  seconds["whole"] = time.perf_counter() - begun
  files = (store.cache_dir() / "tables").glob("*.safetensors")
  return {
    "seconds": {key: round(value, 3) for key, value in seconds.items()},
    # Of Linux, in KiB.
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    "tokens": len(tables.token_id),
    "ids": tables.info.size,
    "states": tables.next.shape[0],
    "kinds": tables.next.shape[1],
    "trie_nodes": len(tables.low),
    "longest_token": tables.longest,
    "file_bytes": sum(file.stat().st_size for file in files),
  }


def in_process(tokenizer: str, utf8: str, cache_dir: str) -> dict[str, Any]:
  """`measure` in a fresh process."""
  return _runtime.in_process(
    "experiments.tables",
    f"--one={tokenizer}",
    f"--config.utf8={utf8}",
    cache_dir=cache_dir,
  )


def run() -> None:
  """Does what the flags say."""
  config = _CONFIG.value
  if _ONE.value:
    print(json.dumps(measure(_ONE.value, config.utf8)))
    return
  rows = {}
  asked = _TOKENIZERS.value or config.tokenizers
  names = f"{'tokens':>9}{'compile':>10}{'load':>8}{'MB':>7}{'peak MiB':>10}"
  print(" " * 14 + names)
  with _runtime.progress(len(asked), unit="tokenizer") as bar:
    for item in asked:
      given, _, path = item.partition("=")
      # Fetched here, so that the processes find it in any cache.
      found = hub.resolve(path or given)
      with tempfile.TemporaryDirectory() as cache_dir:
        first = in_process(str(found), config.utf8, cache_dir)
        again = in_process(str(found), config.utf8, cache_dir)
      rows[given] = {
        **first,
        "load_seconds": again["seconds"]["whole"],
        "load_peak_mib": again["peak_mib"],
      }
      print(
        f"{given:14}{first['tokens']:9}{first['seconds']['whole']:10.2f}"
        f"{again['seconds']['whole']:8.2f}{first['file_bytes'] / 1e6:7.1f}"
        f"{first['peak_mib']:10}",
        flush=True,
      )
      bar.advance(given)
  if _OUTPUT.value:
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {"tokenizers": rows, "environment": _runtime.public_environment()},
    )


if __name__ == "__main__":
  _runtime.main(run)
