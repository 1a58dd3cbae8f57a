"""Token prompting against the exact next byte, at every cut of every text.

  python -m experiments.bias --workdir=runs/bias/smollm2 \
    --results=results/bias/smollm2
  python -m experiments.bias --workdir=runs/bias/gemma3 \
    --config.model=gemma3-270m --config.count=4 --results=results/bias/gemma3

Hardware: any; there are no timings. Time on two CPU cores: about five minutes
each. Result: inside a token the KL is 5 to 7 bits and the likeliest byte is
another one at seven to nine cuts of ten; a round trip would lose two thirds of
the covers at SmolLM2's paragraph breaks. The variant `tiny` shows that it
works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "smollm2-135m"
  config.dtype = "float32"
  # See `experiments/_texts.py`.
  config.texts = ("english", "code", "chinese", "urls")
  # Texts of each, and bytes of a text.
  config.count = 12
  config.size = 300
  if variant == "tiny":
    config.model = "stdlib-bpe"
    config.texts = ("code", "chinese")
    config.count = 2
    config.size = 40
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
