"""Host: the prompt that the flags give, and a machine that is ready for it."""

import pathlib

import jax
from absl import flags

import byteprob
from byteprob import store

PROMPT = flags.DEFINE_string("prompt", None, "The prompt, as it stands.")
PROMPT_FILE = flags.DEFINE_string(
  "prompt_file", None, "A file that holds the prompt, any bytes."
)


def read(otherwise: str) -> bytes:
  """The prompt's bytes; `otherwise` if the flags give none.

  Raises:
    ByteprobError: they give two.
    OSError: the file cannot be read.
  """
  if PROMPT.value is not None and PROMPT_FILE.value is not None:
    raise byteprob.ByteprobError("give --prompt or --prompt_file, not both")
  if PROMPT_FILE.value is not None:
    return pathlib.Path(PROMPT_FILE.value).read_bytes()
  chosen = otherwise if PROMPT.value is None else PROMPT.value
  # The shell may give bytes that are not UTF-8.
  return chosen.encode("utf-8", "surrogateescape")


def keep_compiled() -> None:
  """What XLA compiles is kept: it is most of the time of a short run."""
  cache = str(store.cache_dir() / "xla")
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
