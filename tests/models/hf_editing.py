"""Host: changes to the files of a Hugging Face directory."""

import json

from safetensors import numpy as safetensors_numpy


def edit_config(directory, remove=(), **changes):
  """Sets and removes keys of config.json."""
  path = directory / "config.json"
  values = json.loads(path.read_text()) | changes
  for key in remove:
    del values[key]
  path.write_text(json.dumps(values))


def edit_tensors(directory, remove=(), **changes):
  """Sets and removes tensors; `__` in a name stands for a dot."""
  path = directory / "model.safetensors"
  tensors = safetensors_numpy.load_file(path)
  tensors |= {k.replace("__", "."): v for k, v in changes.items()}
  for name in remove:
    del tensors[name]
  safetensors_numpy.save_file(tensors, path)
