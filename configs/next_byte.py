"""The next byte of a prompt that ends inside a token.

  python -m experiments.next_byte

and with `--prompt=`, `--model=` and so on (`--help`), which come before what
is written here. Hardware: any. For time and result see
`results/next_byte/`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # A name or path, as `byteprob.load` takes it.
  config.model = "stdlib-bpe"
  # Python code, cut inside `range`: the tokenizer ends a token there, which
  # it does not do where the word goes on.
  config.prompt = "for i in ra"
  # Of the greedy continuations. Longer texts are more shapes to compile.
  config.max_bytes = 20
  # Bytes and covers that are shown.
  config.top = 8
  config.validity = "exact"
  config.utf8 = "strict"
  config.dtype = "float32"
  return config
