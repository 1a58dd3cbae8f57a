"""A text drawn byte by byte from the model in the package.

  python -m experiments.generate
  python -m experiments.generate --interactive

Hardware: any. Time: seconds, most of them to compile, once.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # A name or path, as `byteprob.load` takes it.
  config.model = "stdlib-bpe"
  config.prompt = "def main(ar"
  config.seed = 0
  config.count = 1
  config.max_bytes = 300
  config.temperature = 0.7
  config.top_p = 1.0
  config.top_k = 0
  config.min_p = 0.0
  config.greedy = False
  config.eps = 0.0
  config.constraint = ""
  config.utf8 = "strict"
  # With --interactive: likely next bytes, and bytes of the continuation.
  config.choices = 5
  config.ahead = 24
  return config
