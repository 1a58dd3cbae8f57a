"""Host: any tokenizer, compiled to `Tables`."""

import hashlib
import os
import pathlib
import shutil
import warnings

import tokenizers

from byteprob import hub, store
from byteprob.errors import CheckpointError
from byteprob.models import gguf_file
from byteprob.tokenization import cache
from byteprob.tokenization.spec import CONFIGS, TokenizerSpec
from byteprob.tokenization.tables import VERSION, Tables
from byteprob.tokenization.trie import spell_all

__all__ = [
  "Tables",
  "TokenizerSpec",
  "compile_tables",
  "copy_tokenizer",
  "load_tables",
  "read_spec",
  "spell_all",
]

_HASHED = 2**26  # a GGUF file's metadata stand well within its first bytes


def load_tables(
  path_or_name: str | os.PathLike[str], utf8: str = "strict"
) -> Tables:
  """A tokenizer's tables, from the cache if they have been compiled before.

  Args:
    path_or_name: a `tokenizer.json`, a SentencePiece `.model`, a GGUF file, a
      Hugging Face directory or hub id, or a name that `byteprob.load` knows.
    utf8: "strict", or "any" to extend a byte-level tokenizer to bytes that
      are not UTF-8.

  Returns:
    The tables, as NumPy arrays.

  Raises:
    CheckpointError: files are missing or broken.
    UnsupportedTokenizerError: something cannot be compiled exactly.
    DownloadError: it could not be fetched.
  """
  if utf8 not in ("strict", "any"):
    raise ValueError(f"utf8 must be 'strict' or 'any', not {utf8!r}")
  path = tokenizer_file(hub.resolve(path_or_name))
  key = _digest(path, utf8)
  cached = store.cache_dir() / "tables" / f"{key}.safetensors"
  if (tables := cache.restore(cached)) is not None:
    return tables
  tables = compile_tables(read_spec(path), key=key, utf8_mode=utf8)
  try:
    cache.save(tables, cached)
  except OSError as error:
    warnings.warn(
      f"The compiled tokenizer is not kept: {cached.parent} cannot be written"
      f" ({error.strerror}). Set BYTEPROB_CACHE to a directory that can.",
      stacklevel=2,
    )
  return tables


def compile_tables(
  spec: TokenizerSpec, *, key: str, utf8_mode: str = "strict"
) -> Tables:
  """Compiles a tokenizer; see `byteprob.tokenization.compile`."""
  # Here, for what is in the cache needs neither this nor the readers.
  from byteprob.tokenization import compile

  return compile.compile_tables(spec, key=key, utf8_mode=utf8_mode)


def copy_tokenizer(
  path: str | os.PathLike[str], directory: pathlib.Path
) -> None:
  """Writes the tokenizer of a model to a directory, without its weights.

  Raises:
    CheckpointError: there is none, or its file is broken.
  """
  file = tokenizer_file(pathlib.Path(path))
  if file.suffix == ".gguf":
    alone = gguf_file.read_metadata_alone(file)
    (directory / "tokenizer.gguf").write_bytes(alone)
    return
  for name in (file.name, *CONFIGS):
    if file.with_name(name).is_file():
      shutil.copyfile(file.with_name(name), directory / name)


def tokenizer_file(path: pathlib.Path) -> pathlib.Path:
  """The file that holds the tokenizer of a model."""
  if not path.is_dir():
    return path
  for name in ("tokenizer.json", "tokenizer.model", "tokenizer.gguf"):
    if (path / name).is_file():
      return path / name
  raise CheckpointError(
    f"There is neither a tokenizer.json nor a tokenizer.model in {path};"
    " byteprob needs the tokenizer beside the weights."
  )


def read_spec(path: str | os.PathLike[str]) -> TokenizerSpec:
  """The tokenizer in a file, not compiled.

  Raises:
    CheckpointError: the file is missing or broken.
    UnsupportedTokenizerError: a component cannot be compiled exactly.
  """
  from byteprob.tokenization import gguf, huggingface, sentencepiece

  path = pathlib.Path(path)
  readers = {
    ".json": huggingface.read,
    ".model": sentencepiece.read,
    ".gguf": gguf.read,
  }
  if path.suffix not in readers:
    raise CheckpointError(
      f"{path} is not a tokenizer that byteprob reads: tokenizer.json,"
      " a SentencePiece .model, or .gguf."
    )
  return readers[path.suffix](path)


def _digest(path: pathlib.Path, utf8: str) -> str:
  """A digest of all that the tables depend on."""
  digest = hashlib.sha256()
  # The library's Unicode tables decide where pre-tokenizers cut.
  digest.update(f"{VERSION} {tokenizers.__version__} {utf8}".encode())
  names = [path.name]
  if path.suffix == ".json":
    names += CONFIGS
  try:
    for name in names:
      file = path.with_name(name)
      if name != path.name and not file.is_file():
        continue
      digest.update(f" {name} {file.stat().st_size} ".encode())
      with open(file, "rb") as stream:
        digest.update(stream.read(_HASHED))
  except OSError as error:
    raise CheckpointError(f"{path} cannot be read: {error}.") from error
  return digest.hexdigest()
