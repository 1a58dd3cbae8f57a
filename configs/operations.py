"""Operations that the sampling loop runs for each byte, beside the model.

  python -m experiments.operations --output=results/operations/stdlib-bpe.json

Hardware: any; the program is the one for it, and there are no timings. Time on
two CPU cores: two minutes. The variant `tiny` shows that it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # A name or path, as `byteprob.load` takes it.
  config.model = "stdlib-bpe"
  config.dtype = "float32"
  # See `experiments/_texts.py`. A context of 32 bytes or less is read by the
  # loop itself, and would be counted.
  config.text = "code"
  config.context = 100
  config.max_bytes = 200
  config.temperature = 1.0
  # Texts side by side.
  config.batches = (1, 16)
  config.seed = 0
  if variant == "tiny":
    config.max_bytes = 20
    config.batches = (1,)
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
