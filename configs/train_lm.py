"""Small language models of Python, trained on its sources.

  python -m experiments.train_lm --config=configs/train_lm.py:bpe \
    --workdir=runs/bpe --export=byteprob/assets/stdlib-bpe \
    --results=results/train_lm/bpe

makes one model of the package, with `spm` for `bpe` another, and

  python -m experiments.train_lm --config=configs/train_lm.py:fim \
    --config.without=runs/data/HumanEval.jsonl.gz \
    "--config.more=('.venv/lib/python3.11/site-packages/numpy',
                    '.venv/lib/python3.11/site-packages/jax')" \
    --workdir=runs/fim --export=byteprob/assets/python-fim \
    --results=results/train_lm/fim

the third, which reads prefix and middle as one text, and no file that holds a
function of HumanEval (in these there was none). Hardware: two cores of a server
CPU, shared with other work for most of the time; a step with short rows takes
0.9 to 1.5 s, from machine to machine, when they are free.

  variant  parameters  tokens  held-out files, left to right         time
  bpe      2.41 M      6.6 M   3.13 nats a token, 1.22 bits a byte   55 min
  spm      1.46 M      4.1 M   3.09 nats a token, 1.45 bits a byte   65 min
  fim      2.41 M      8.2 M   2.68 nats a token, 1.36 bits a byte   75 min
  fim30m   29.1 M      105 M   2.29 nats a token, 0.81 bits a byte    4 min

The held-out files are not the same ones: they are those of what each variant
reads. `bpe` and `spm` were cut short on the way, so that their first steps had
the learning rates of a longer run (`note` in `training.json`); the figures are
from one run each. `tiny` is for tests (seconds).

`fim30m` is for a GPU (one H200; two minutes more to make the rows with 16
cores, one to compile), and takes more sources than the standard library's:

  pip install --no-deps --target runs/sources -r configs/train_lm_sources.txt
  python -m experiments.train_lm --config=configs/train_lm.py:fim30m \
    --config.without=runs/data/HumanEval.jsonl.gz \
    "--config.more=('runs/sources',)" --workdir=runs/fim30m \
    --export=results/train_lm/fim30m/python-fim-29m.gguf \
    --results=results/train_lm/fim30m

In bfloat16 it has 58 MB; the file has 8 bits a weight, 33 MB.
"""

from ml_collections import ConfigDict, config_dict


def get_config(variant: str = "bpe") -> ConfigDict:
  """The configuration of a variant: `bpe`, `spm`, `tiny`, `fim`, `fim30m`."""
  config = ConfigDict()
  config.seed = 0

  # "byte_level" (as Llama 3) or "byte_fallback" (as Llama 2).
  config.tokenizer = "byte_level"
  config.vocab_size = 4096

  # Where the sources are; "": the running interpreter's standard library.
  config.root = ""
  # Further directories of Python sources, such as installed packages'.
  config.more = ()
  # HumanEval's file: what holds one of its functions is not read.
  config.without = ""
  # Only so many files, in the order of their paths.
  config.files = config_dict.placeholder(int)
  # Share of the files that are cut and written out of order, to fill in.
  config.fim_share = 0.5
  # Whether prefix and middle are tokenized as one text in SPM. If not, the
  # model learns that a token may end wherever a middle begins.
  config.joint = False
  # Processes that make rows, each one pass over the sources at a time; with a
  # hundred megabytes of sources each takes 5 GB.
  config.workers = 1

  config.model = ConfigDict()
  config.model.width = 192
  config.model.mlp_width = 512
  config.model.depth = 4
  config.model.heads = 4
  config.model.kv_heads = 2
  config.model.head_dim = 48
  config.model.theta = 10_000.0
  # Of the products; parameters and optimizer are float32.
  config.dtype = "float32"

  # Two stages: rows of `context` tokens, `batch` rows a step. Pieces to fill
  # in have so many characters (the shortest, the longest).
  config.short = ConfigDict()
  config.short.context = 256
  config.short.batch = 16
  config.short.steps = 1000
  config.short.sizes = (64, 700)
  config.full = ConfigDict()
  config.full.context = 1024  # the model's, too
  config.full.batch = 4
  config.full.steps = 600
  config.full.sizes = (200, 3000)

  # AdamW: a linear start over `warmup` steps, then a cosine to 0.
  config.learning_rate = 2e-3
  config.warmup = 100
  config.weight_decay = 0.1

  # In steps. A kill loses what came after the last checkpoint.
  config.log_every = 10
  config.valid_every = 200
  config.save_every = 100
  # Validation rows used on the way; the final numbers use all.
  config.valid_rows = 12

  match variant:
    case "bpe":
      pass
    case "spm":
      config.tokenizer = "byte_fallback"
      config.vocab_size = 2560
      config.model.width = 160
      config.model.mlp_width = 384
      config.model.head_dim = 40
      config.short.steps = 600
      config.full.steps = 400
    case "tiny":
      config.vocab_size = 512
      config.files = 50
      config.model.width = 32
      config.model.mlp_width = 64
      config.model.depth = 2
      config.model.heads = 2
      config.model.kv_heads = 1
      config.model.head_dim = 16
      config.short.context = 32
      config.short.batch = 4
      config.short.steps = 8
      config.short.sizes = (16, 60)
      config.full.context = 64
      config.full.batch = 2
      config.full.steps = 8
      config.full.sizes = (16, 150)
      config.warmup = 4
      config.log_every = 2
      config.valid_every = 4
      config.save_every = 4
      config.valid_rows = 2
    case "fim":
      config.fim_share = 0.9
      config.joint = True
      config.short.steps = 1600
      config.full.steps = 400
    case "fim30m":
      config.fim_share = 0.9
      config.joint = True
      config.workers = 4
      config.vocab_size = 16_384
      config.model.width = 448
      config.model.mlp_width = 1024
      config.model.depth = 10
      config.model.heads = 7
      config.model.kv_heads = 7
      config.model.head_dim = 64
      config.dtype = "bfloat16"
      config.short.context = 512
      config.short.batch = 128
      config.short.steps = 1300
      config.short.sizes = (64, 1500)
      config.full.batch = 64
      config.full.steps = 300
      config.learning_rate = 1.5e-3
      config.warmup = 500
      config.save_every = 1000
    case _:
      raise ValueError(
        f"no variant {variant!r}; there are bpe, spm, tiny, fim and fim30m"
      )
  return config
