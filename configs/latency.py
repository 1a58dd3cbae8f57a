"""What one more byte costs, and what the first calls compile.

  python -m experiments.latency --output=results/latency/stdlib-bpe.json
  python -m experiments.latency --config=configs/latency.py:smollm2-135m \
    --output=results/latency/smollm2.json

Hardware: any; milliseconds mean little on a machine that does other work
meanwhile. Time on two CPU cores: five minutes. The variant `tiny` shows that
it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # A name or path, as `byteprob.load` takes it.
  config.model = "stdlib-bpe"
  config.dtype = "float32"
  # See `experiments/_texts.py`.
  config.text = "english"
  # Bytes of each context; bytes pushed then, and before they are timed.
  config.contexts = (100, 2000)
  config.bytes = 100
  config.warm = 10
  # Drawn by plain decoding.
  config.plain_bytes = 200
  config.requests = 30
  config.seed = 0
  match variant:
    case "":
      pass
    case "smollm2-135m":
      config.model = variant
    case "tiny":
      config.contexts = (20, 60)
      config.bytes = 3
      config.warm = 2
      config.plain_bytes = 20
      config.requests = 5
    case _:
      raise ValueError(
        f"no variant {variant!r}; there are smollm2-135m and tiny"
      )
  return config
