"""Host: writes a model in the form that loads fastest.

  python -m experiments.convert --model=smollm2-135m --output=runs/smollm2

and then `--config.model=runs/smollm2`, or `byteprob.load("runs/smollm2")`. See
`byteprob.convert`; what it saves, `experiments/loading.py` measures.
"""

from absl import flags

import byteprob
from experiments import _runtime

_MODEL = flags.DEFINE_string(
  "model", None, "A model's name or path.", required=True
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The directory to write.", required=True
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of the parameters kept."
)


def run() -> None:
  """Does what the flags say."""
  directory = byteprob.convert(_MODEL.value, _OUTPUT.value, _DTYPE.value)
  files = [path for path in directory.rglob("*") if path.is_file()]
  size = sum(path.stat().st_size for path in files)
  print(f"{directory}: {size / 1e6:.1f} MB, for byteprob.load")


if __name__ == "__main__":
  _runtime.main(run)
