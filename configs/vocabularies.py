"""How far vocabularies overlap, and whether tokens end at the same bytes.

  python -m experiments.vocabularies --workdir=runs/vocabularies \
    --results=results/vocabularies/vocabularies

Hardware: any; no model is called. Time: a minute. Result: pairs of five real
tokenizers share 12 to 64 % of their tokens, and 81 to 100 % of where these end
in English. Other tokenizers are given as NAME=PATH; the kept results are of
smollm2=smollm2-135m, gemma3=gemma3-270m, the packaged ones, and llama2,
llama3.1 and qwen3 from directories with their `tokenizer.json`.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # Names, or NAME=PATH of a tokenizer's files, with commas.
  config.tokenizers = "smollm2-135m,gemma3-270m,stdlib-bpe,stdlib-spm"
  # See `experiments/_texts.py`.
  config.texts = ("english", "code", "chinese")
  # Parts of each, and their bytes.
  config.count = 20
  config.size = 1000
  if variant == "tiny":
    config.tokenizers = "stdlib-bpe,stdlib-spm"
    config.texts = ("code", "chinese")
    config.count = 2
    config.size = 60
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
