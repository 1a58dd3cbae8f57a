"""Host: a model, written once in the form that loads fastest."""

import os
import pathlib

from byteprob import hub, models, store, tokenization
from byteprob.models import converted
from byteprob.models.assemble import Dtype


def convert(
  name_or_path: str | os.PathLike[str],
  directory: str | os.PathLike[str],
  dtype: Dtype = "float32",
) -> pathlib.Path:
  """Writes a model as a directory that `load` takes.

  Its weights are kept as the model computes with them: nothing is dequantized
  or transposed when they are loaded, and each device of a mesh reads its part
  alone.

  Args:
    name_or_path: any model that `load` takes.
    directory: where to write; nothing may be there yet.
    dtype: of the parameters kept. A model kept as bfloat16 can be loaded as
      float32, but what was rounded stays so.

  Returns:
    The directory.

  Raises:
    DownloadError: there is no such model, or it cannot be fetched.
    CheckpointError: its files are broken.
    UnsupportedTokenizerError: its tokenizer cannot be compiled exactly.
    FileExistsError: something is there.
    OSError: the directory cannot be written. Nothing half-written is left.
  """
  path = hub.resolve(name_or_path)
  directory = pathlib.Path(directory).expanduser()
  with store.atomic_directory(directory) as part:
    tokenization.copy_tokenizer(path, part)
    # Compiled for later, and a tokenizer that cannot be is told at once.
    tokenization.load_tables(part)
    converted.save(part, *models.load_params(path, dtype))
  return directory
