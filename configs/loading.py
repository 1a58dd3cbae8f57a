"""How long a model's weights take to load, as they come and converted.

  python -m experiments.loading --output=results/loading/smollm2.json
  python -m experiments.loading --config.model=gemma3-270m \
    --config.mesh=model:4 --output=results/loading/gemma3.json

Hardware: any; on a CPU the mesh is made of virtual devices, and the peak is
with the parameters themselves. Time on two CPU cores: two minutes. Result, on a
machine that did other work meanwhile: SmolLM2's 538 MB of float32 load in 4.0 s
from its 4-bit GGUF, and converted in 2.1 s; on three devices in 4.2 and 2.7 s,
with 152 and 186 MB beside them at most. The variant `tiny` shows that it works.
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
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
