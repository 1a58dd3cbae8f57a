"""Bits per byte of a text, byte by byte and by its tokens.

  python -m experiments.bits_per_byte --workdir=runs/bits/english \
    --results=results/bits_per_byte/english
  python -m experiments.bits_per_byte --workdir=runs/bits/wikitext \
    --config.data=wikitext2-test.txt.gz --results=results/bits_per_byte/wikitext
  python -m experiments.bits_per_byte --workdir=runs/bits/hub \
    --config.data=hub:Salesforce/wikitext:wikitext-2-raw-v1:test:text

Hardware: any; several processes (`--distributed`) share the documents. Time on
two CPU cores: four seconds a document of 1,500 bytes. Result: SmolLM2 has
1.2253 bits a byte on WikiText-2's test set (by its tokens 1.2266), 1.5802 on
TinyShakespeare and 0.7401 on Python code, the last two of 20 documents. The
variant `tiny` shows that it works.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  config.model = "smollm2-135m"
  config.dtype = "float32"
  # A name (see `experiments/_texts.py`), the path of a text file (.gz too), or
  # hub:NAME:CONFIG:SPLIT:FIELD of a data set on the hub.
  config.data = "english"
  # Bytes of a document at most, and documents at most (0: all).
  config.size = 1500
  config.most = 100
  # Longer documents than the context: bytes that are read together (0: all),
  # and bytes that are scored of them (0: half).
  config.window = 0
  config.stride = 0
  if variant == "tiny":
    config.model = "stdlib-bpe"
    config.data = "code"
    config.size = 100
    config.most = 4
  elif variant:
    raise ValueError(f"no variant {variant!r}; there is tiny")
  return config
