"""How fast texts are drawn, beside plain token decoding.

  python -m experiments.throughput --output=results/throughput/smollm2.json \
    --figure=results/throughput/smollm2.png

Hardware: any; a ratio means little on a machine that does other work
meanwhile. Time on two CPU cores: three quarters of an hour, much of it to
compile. The result is in the files that are written.

Every case is the `base` with one thing changed, as `vary` says. Variants
(`--config=configs/throughput.py:NAME`): `base` alone, in five minutes;
`batches`, more texts side by side; `gemma3`, a model with a large vocabulary;
`1b` and `7b`, random weights of these shapes in
bfloat16, for a GPU; `tiny` shows that it works, in a minute.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # A name or path, as `byteprob.load` takes it.
  config.model = "smollm2-135m"
  config.dtype = "float32"
  # "1b" or "7b": random weights of that shape, with the model's tokenizer.
  config.shape = ""
  config.base = ConfigDict(
    {
      # `experiments/_texts.py`: how a text begins, and with how many bytes.
      "text": "english",
      "context": 300,
      "batch": 1,
      "temperature": 1.0,
      "eps": 0.0,
      "validity": "exact",
    }
  )
  config.vary = ConfigDict(
    {
      "text": ("code", "repetitive"),
      "eps": (1e-6, 1e-4),
      "validity": ("trust_model",),
      "batch": (4, 16, 64),
      "context": (1000, 4000, 8000),
      "temperature": (0.6, 1.5),
    }
  )
  # Texts of a case at least; as many as `batch` go side by side.
  config.texts = 3
  config.max_bytes = 400
  config.seed = 0
  config.repeats = 1
  # Time transformers on a model of the same shape, if torch is there.
  config.transformers = True
  match variant:
    case "":
      pass
    case "base":
      config.vary = ConfigDict()
    case "batches":
      config.vary = ConfigDict({"batch": (4, 16, 64)})
    case "gemma3":
      config.model = "gemma3-270m"
      config.vary = ConfigDict({"text": ("code",), "batch": (4,)})
      config.max_bytes = 200
    case "1b" | "7b":
      config.shape = variant
      config.dtype = "bfloat16"
      config.vary = ConfigDict({"batch": (4, 16, 64)})
      config.transformers = False
    case "tiny":
      config.model = "stdlib-bpe"
      config.base.context = 40
      config.vary = ConfigDict({"batch": (2,), "eps": (0.01,)})
      config.texts = 2
      config.max_bytes = 30
      config.transformers = False
    case _:
      raise ValueError(
        f"no variant {variant!r}; there are base, batches, gemma3, 1b, 7b and"
        " tiny"
      )
  return config
