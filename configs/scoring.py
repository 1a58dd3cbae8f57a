"""Bytes per second of exact scoring and of a plain forward over the tokens.

  python -m experiments.scoring --output=results/scoring/stdlib-bpe.json
  python -m experiments.scoring --config.model=smollm2-135m \
    --config.sizes=300,900 \
    --output=results/scoring/smollm2.json

Hardware, time and result are in the files that are written: a ratio means
little on a machine that does other work meanwhile. Target: 0.3. `bound` is
what a model call over as many rows as there are nodes would leave of it: where
the model is bound by arithmetic, no exact method over these nodes is faster.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "stdlib-bpe"
  config.texts = ("english", "code")
  # Bytes of each text, and how many go side by side.
  config.sizes = (300, 1000, 2000)
  config.batches = (1,)
  # Nodes with a smaller share of the text's probability are left out.
  config.eps = 1e-4
  config.repeats = 3
  return config
