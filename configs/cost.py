"""What a byte costs, against the length of the text.

  python -m experiments.cost --workdir=runs/cost/smollm2 \
    --results=results/cost/smollm2

Hardware: any; milliseconds mean little on a machine that does other work
meanwhile. Time on two CPU cores: a quarter of an hour, three minutes with
`--config.sizes=64,256, --config.count=2` as in the kept results. The variant
`tiny` shows that it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "smollm2-135m"
  config.dtype = "float32"
  # See `experiments/_texts.py`.
  config.texts = ("english",)
  config.context = 100
  # Texts of each length.
  config.count = 3
  config.sizes = (64, 256, 1024)
  config.repeats = 1
  config.seed = 0
  if variant == "tiny":
    config.model = "stdlib-bpe"
    config.texts = ("code",)
    config.context = 20
    config.count = 1
    config.sizes = (8,)
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
