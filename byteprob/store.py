"""Host: the cache directory, and files that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


def cache_dir() -> pathlib.Path:
  """The directory for compiled tables and fetched models.

  `$BYTEPROB_CACHE` if set, else `$XDG_CACHE_HOME/byteprob`, else
  `~/.cache/byteprob`. It is not created here.
  """
  if path := os.environ.get("BYTEPROB_CACHE"):
    return pathlib.Path(path).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "byteprob"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling of `path`; renames it to `path` on success.

  Readers see the old file or the new one, never a part; two writers at once
  are harmless (the last one wins); on any error the temporary file is gone
  and `path` is untouched.

  Raises:
    OSError: the directory cannot be created or written, or the disk is full.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(
    dir=path.parent, prefix=f".{path.name}.", suffix=".part"
  )
  os.close(handle)
  part = pathlib.Path(name)
  try:
    yield part
    # mkstemp makes private files; a shared cache wants the usual mode.
    part.chmod(0o666 & ~_umask())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(
  path: str | os.PathLike[str],
) -> Iterator[pathlib.Path]:
  """`atomic_path` for a directory, which must not be there yet.

  Raises:
    FileExistsError: something is there.
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise FileExistsError(
      f"there is something at {path}; name another directory, or delete it"
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  part = pathlib.Path(
    tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
  )
  try:
    yield part
    part.chmod(0o777 & ~_umask())
    os.rename(part, path)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
