"""Drafts change the number of model calls, and nothing else.

  python -m experiments.drafting --output=results/drafting/smollm2.json
  python -m experiments.drafting --config.model=gemma3-270m \
    --config.drafts=none,rows,look_up,smollm2-135m \
    --config.texts="('english','code','repetitive')" \
    --config.temperatures=1.0, --config.batch=2 --config.max_bytes=200 \
    --output=results/drafting/gemma3.json

Hardware: any; there are no timings. Time on two CPU cores: a quarter of an
hour.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "smollm2-135m"
  # The first is what the others are held against: "none", "rows", "look_up",
  # or a smaller model's name.
  config.drafts = "none,rows,look_up"
  config.texts = ("english", "code", "repetitive", "chinese", "emoji")
  config.temperatures = (1.0, 0.6)
  # Texts of each kind, side by side.
  config.batch = 4
  config.context = 300
  config.max_bytes = 400
  config.seed = 0
  return config
