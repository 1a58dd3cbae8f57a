"""Programs with a span cut out, filled in by five ways of prompting.

  python -m experiments.infilling --workdir=runs/infilling --execute \
    --config.model=results/train_lm/fim30m/python-fim-29m.gguf \
    --config.longest=12 --config.max_bytes=16 --config.batch=250 \
    --config.data=runs/data/HumanEval-RandomSpanInfilling.jsonl.gz

`--config.data` takes files of openai/human-eval-infilling, or
`hub:loubnabnl/humaneval_infilling:HumanEval-SingleLineInfilling:test` and the
like, with commas. With `--execute` the programs that come out are run, each in
a sandbox (Linux alone), and pass@k is told. Models of the known families need
no more than `--config.model`, such as `bigcode/starcoder2-3b`; others take
`--config.tokens.prefix="<PRE>"` and so on.

Hardware: any. The variant `tiny` takes two minutes: it fills in three functions
with the model in the package, and shows that it works. The variant `codellama`
is the paper's model on its benchmark, for a GPU of 40 GB or more; it has not
been run.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
  """The configuration of a variant: "", `tiny` or `codellama`."""
  config = ConfigDict()
  config.model = "stdlib-bpe"
  config.dtype = "float32"
  # One of byteprob.infill.FAMILIES, or "" for the one whose tokens it has; or
  # the tokens themselves.
  config.family = ""
  config.tokens = ConfigDict(
    {"prefix": "", "suffix": "", "middle": "", "end": ""}
  )
  # Files of tasks, with commas; "sample": a few small ones. Tasks of each, 0
  # for all.
  config.data = "sample"
  config.tasks = 0
  # Of those whose middle has so many bytes at most, 0 for any: a small model
  # passes no test but where little is missing.
  config.longest = 0
  # See byteprob.infill.ORDERS; and which ways are tried where prefix and
  # middle are one text. Elsewhere only "byte" and "token" differ.
  config.orders = ("psm", "joint_spm")
  config.methods = ("byte", "cover", "token", "healing", "alignment")
  # Of the byte-level sampler, or of the others' tokens.
  config.settings = ConfigDict(
    {"greedy": {"greedy": True}, "sampled": {"temperature": 0.8}}
  )
  # Those that middles are drawn with; without any, true ones are scored alone.
  config.draw = ("greedy", "sampled")
  # Samples of each task where they are not greedy, and k of pass@k.
  config.samples = 10
  config.ks = (1, 10)
  config.max_bytes = 200
  # Texts that are drawn side by side.
  config.batch = 32
  # What `--execute` says. Limits of a program that is run.
  config.execute = False
  config.limits = ConfigDict({"seconds": 5.0, "megabytes": 1024})
  config.seed = 0
  if variant == "tiny":
    config.tasks = 4
    config.methods = ("byte", "token")
    config.orders = ("joint_spm",)
    config.draw = ("greedy",)
    config.max_bytes = 24
    config.batch = 4
  elif variant == "codellama":
    config.model = "codellama/CodeLlama-7b-hf"
    config.dtype = "bfloat16"
    config.data = (
      "hub:loubnabnl/humaneval_infilling:HumanEval-RandomSpanInfilling:test"
    )
    config.max_bytes = 500
    config.batch = 40
  elif variant:
    raise ValueError(f"no variant {variant!r}; there are tiny and codellama")
  return config
