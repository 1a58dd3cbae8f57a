"""Host: the prompt that the flags give."""

import pathlib

from absl import flags

import byteprob

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
