"""Bits per byte of two models on three texts, a run each.

  python -m experiments.sweep --workdir=runs/sweep \
    --results=results/sweep/bits_per_byte

A sweep of another experiment is a copy of this file (`--config=`). Hardware:
the experiment's. Time on two CPU cores: half an hour. The variant `tiny` shows
that it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # The module, and the configuration that all runs begin with.
  config.experiment = "experiments.bits_per_byte"
  config.config = "configs/bits_per_byte.py"
  # Values of its keys, of which every combination is a run, ...
  config.grid = ConfigDict(
    {
      "model": ("smollm2-135m", "gemma3-270m"),
      "data": ("english", "code", "chinese"),
    }
  )
  # ... and values of others that change together: the first of each, ...
  config.zipped = ConfigDict()
  # Further flags of every run, with its directory for {run}, and the JSON file
  # that it leaves there.
  config.flags = ("--workdir={run}",)
  config.result = "summary.json"
  # What of that goes into the table, keys apart by dots.
  config.show = ("byte.bits_per_byte", "byte.error", "token.bits_per_byte")
  # What comes before the module's name, if not this Python: a launcher, as
  # "launch/slurm.sh --nodes=2 --options=--wait --".
  config.launcher = ""
  if variant == "tiny":
    config.config += ":tiny"
    config.grid = ConfigDict({"model": ("stdlib-bpe", "stdlib-spm")})
    config.zipped = ConfigDict({"size": (60,), "most": (2,)})
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
