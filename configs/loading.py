"""How long a model's weights take to load, as they come and converted.

  python -m experiments.loading --output=results/loading/smollm2.json
  python -m experiments.loading --config.model=gemma3-270m \
    --config.mesh=model:4 --output=results/loading/gemma3.json

Hardware: any; on a CPU the mesh is made of virtual devices. Time: a minute.
Result: see `results/loading/`. The variant `tiny` shows that it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "smollm2-135m"
  config.dtype = "float32"
  # See `byteprob.make_mesh`.
  config.mesh = "model:3"
  config.repeats = 3
  if variant == "tiny":
    config.model = "stdlib-bpe"
    config.mesh = "model:2"
    config.repeats = 1
  return config
