"""Models with different vocabularies together, against each alone.

  python -m experiments.ensemble --workdir=runs/ensemble \
    --config.tasks.piqa=valid.jsonl+valid-labels.lst \
    --config.tasks.hellaswag=hellaswag_val.jsonl \
    --config.tasks.gsm8k=gsm8k-test.jsonl --config.tasks.mbpp=mbpp.jsonl \
    --config.tasks.last_word=wikitext2-test.txt.gz \
    --config.tasks.wikitext=wikitext2-test.txt.gz \
    --results=results/ensemble/small

Hardware: any; several processes (`--distributed`) share the items. Data files
are as they are published (PIQA, HellaSwag, GSM8K and MBPP are on the hub, too).
The variant `tiny` shows that it works.

  python -m experiments.ensemble --config=configs/ensemble.py:table1 ...
  python -m experiments.ensemble --config=configs/ensemble.py:table2 ...

are the models of the paper's Tables 1 and 2, from the hub, for a GPU that holds
three models of 7 billion parameters in bfloat16 (48 GB).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration."""
  config = ConfigDict()
  # Names, directories or hub ids.
  config.models = ("smollm2-135m", "gemma3-270m")
  # Of the models; none for equal ones.
  config.weights = ()
  config.dtype = "float32"
  # See `byteprob.Ensemble`; "proxy" takes three models.
  config.strategies = ("mixture", "bayes", "product", "vote", "rank")
  # Files of the tasks of `experiments/_tasks.py`, with + between; the others
  # are texts: names (see `experiments/_texts.py`) or files. What has none is
  # left out.
  config.tasks = ConfigDict(
    {
      "piqa": "",
      "hellaswag": "",
      "last_word": "",
      "gsm8k": "",
      "mbpp": "",
      "wikitext": "",
      "code": "code",
    }
  )
  # Items of each task at most, evenly spread (0: all), and bytes of a text's
  # documents.
  config.most = 100
  config.size = 600
  # In percent, from the models' cards: PIQA without examples, HellaSwag
  # without (SmolLM2) and with ten (Gemma 3).
  config.published = ConfigDict(
    {
      "piqa": {"smollm2-135m": 68.4, "gemma3-270m": 67.7},
      "hellaswag": {"smollm2-135m": 42.1, "gemma3-270m": 40.9},
    }
  )
  if variant == "tiny":
    config.models = ("stdlib-bpe", "stdlib-spm")
    config.most = 2
    config.size = 40
  elif variant in ("table1", "table2"):
    config.models = {
      "table1": (
        "meta-llama/Llama-2-7b-hf",
        "01-ai/Yi-1.5-6B",
        "mistralai/Mistral-7B-v0.1",
      ),
      "table2": ("codellama/CodeLlama-7b-hf", "01-ai/Yi-Coder-1.5B"),
    }[variant]
    config.dtype = "bfloat16"
    config.most = 0
    config.published = ConfigDict()
  elif variant:
    raise ValueError(
      f"no variant {variant!r}; there are tiny, table1 and table2"
    )
  return config
