"""Host: what every experiment starts with, and how it writes its files.

An experiment writes to one directory, its workdir:

  config.json     what was asked for
  env.json        what it ran on, at its latest start
  *.jsonl         one record a line, in the order that they were made
  figures/        drawn from the above, without a device
  writer-*        which processes write there now (see `_job.py`)

Only the first process of a job writes, but for records that each has of its
own. Every file but the `*.jsonl` appears whole or not at all; those grow by
whole lines. A workdir may be in an object store (`gs://bucket/run`), where
files cannot grow and are written anew.
"""

import contextlib
import datetime
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import tqdm
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

import byteprob
from byteprob import compilation, store
from experiments import _job

PACKAGES = (
  "byteprob",
  "flax",
  "jax",
  "jaxlib",
  "numpy",
  "optax",
  "tokenizers",
  "transformers",
)
"""Whose versions are recorded."""


def define_flags(config: str) -> tuple[flags.FlagHolder, flags.FlagHolder]:
  """Declares `--config`, `--workdir`, `--mesh` and the flags of a job.

  Args:
    config: path of the default configuration file.

  Returns:
    The holders of `--config` and of `--workdir`.
  """
  _job.define_flags()
  define_mesh()
  return (
    config_flags.DEFINE_config_file(
      "config", config, "What to do.", lock_config=True
    ),
    flags.DEFINE_string("workdir", None, "Where to write.", required=True),
  )


def define_mesh() -> None:
  """Declares `--mesh`."""
  flags.DEFINE_string(
    "mesh", None, "Split the model over devices: data:2,model:4."
  )


def mesh(
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh | None:
  """The mesh that `--mesh` asks for; None without.

  Args:
    devices: see `byteprob.make_mesh`.

  Raises:
    MeshError: there is no such mesh.
  """
  known = flags.FLAGS.is_parsed() and "mesh" in flags.FLAGS
  shape = flags.FLAGS.mesh if known else None
  return byteprob.make_mesh(shape, devices) if shape else None


def main(run: Callable[[], None], *mistakes: type[Exception]) -> None:
  """Runs a script; what its users did wrong, they are told in one line.

  Args:
    run: does what the flags say.
    *mistakes: exceptions that tell them, beside the library's own and the
      system's.
  """

  def checked(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    compilation.enable_cache()
    try:
      run()
    except (byteprob.ByteprobError, OSError, *mistakes) as error:
      sys.exit(f"error: {error}")

  app.run(checked)


def in_process(
  module: str, *words: str, cache_dir: str, **environment: str
) -> Any:
  """Runs a script in a fresh process and returns the JSON that it prints.

  Args:
    module: the script.
    *words: its flags.
    cache_dir: the process's `BYTEPROB_CACHE`.
    **environment: more variables.

  Raises:
    ByteprobError: it failed there; the message is the same.
  """
  done = subprocess.run(
    [sys.executable, "-m", module, *words],
    env={**os.environ, "BYTEPROB_CACHE": cache_dir, **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or ["it ended without a word"]
    raise byteprob.ByteprobError(said[-1].removeprefix("error: "))
  return json.loads(done.stdout)


def forget_compiled(most: int = 30_000) -> None:
  """Drops compiled code before the system allows no more of it.

  Each compiled function takes some of a process's memory mappings; Linux
  allows 65,530, and the compiler crashes where there are no more. Call it
  between the parts of a long run; what is needed again is compiled again.

  Args:
    most: mappings that are let be.
  """
  maps = pathlib.Path("/proc/self/maps")
  if maps.is_file() and maps.read_bytes().count(b"\n") > most:
    jax.clear_caches()
    gc.collect()


def start(workdir: "Workdir", *, restarts: bool = False) -> None:
  """Sets up logging and, if asked for, the job. Call it before any JAX.

  Args:
    workdir: the run's.
    restarts: see `_job.join`.
  """
  _job.join(workdir.path, restarts=restarts)
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  # Thirty lines for every checkpoint.
  logging.get_absl_logger().addFilter(
    lambda record: (
      record.levelno > logging.converter.STANDARD_INFO
      or "orbax" not in record.pathname
    )
  )


def is_writer() -> bool:
  """Whether this process is the one that writes files."""
  return jax.process_index() == 0


class Workdir:
  """A run's directory.

  Attributes:
    path: the directory.
  """

  def __init__(self, path: str | os.PathLike[str]):
    if "://" in os.fspath(path):
      self.path = epath.Path(path)
    else:
      self.path = pathlib.Path(path).expanduser().absolute()
    self._lock: Any = None

  def __truediv__(self, name: str) -> epath.Path:
    return self.path / name

  def begin(self, config: ml_collections.ConfigDict) -> None:
    """Records the configuration and the environment.

    Raises:
      SystemExit: the directory belongs to a run with another configuration,
        which must not be mixed with this one; or another job writes there.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    self._lock = self._lock or _job.hold(self.path)
    asked = json.loads(config.to_json_best_effort())
    path = self / "config.json"
    if path.exists() and (found := json.loads(path.read_text())) != asked:
      differ = sorted(
        key
        for key in found.keys() | asked.keys()
        if found.get(key) != asked.get(key)
      )
      raise SystemExit(
        f"{self.path} holds a run with another configuration (they differ in"
        f" {', '.join(differ)}); give another --workdir, or delete this one"
      )
    self.write_json("config.json", asked)
    self.write_json("env.json", environment())

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    if is_writer():
      write_json(self / name, value)

  def append(
    self, name: str, record: dict[str, Any], *, by_all: bool = False
  ) -> None:
    """Adds a line to a `.jsonl` file, which may be this process's own."""
    if not (by_all or is_writer()):
      return
    path, line = self / name, json.dumps(record) + "\n"
    if _job.is_remote(path):
      path.write_text((path.read_text() if path.exists() else "") + line)
      return
    with path.open("a", encoding="utf-8") as file:
      # One write, so that a line is there or is not.
      file.write(line)

  def records(self, name: str) -> list[dict[str, Any]]:
    """Reads a `.jsonl` file; an unfinished last line is left out."""
    path = self / name
    if not path.exists():
      return []
    lines = path.read_bytes().decode().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]

  def mend(self, name: str) -> None:
    """Drops the unfinished last line that a kill may leave in a file."""
    path = self / name
    if path.exists() and not _job.is_remote(path):
      data = path.read_bytes()
      if not data.endswith(b"\n"):
        with path.open("r+b") as file:
          file.truncate(data.rfind(b"\n") + 1)

  def rewind(self, name: str, step: int) -> None:
    """Drops the records of a `.jsonl` file that come after `step`.

    A run that resumes from a checkpoint makes them again.
    """
    if is_writer() and (self / name).exists():
      kept = [r for r in self.records(name) if r["step"] <= step]
      write_text(self / name, "".join(json.dumps(r) + "\n" for r in kept))


def write_json(path: epath.Path, value: Any) -> None:
  """Writes indented JSON, whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file, whole or not at all."""
  if _job.is_remote(path):
    # There a file appears when it is closed.
    path.write_text(text)
    return
  with store.atomic_path(path) as part:
    part.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
  """Versions of the interpreter and of `PACKAGES`, where installed."""
  found = {"python": platform.python_version()}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def environment() -> dict[str, Any]:
  """Record of a run's surroundings: time, versions, commit, devices."""
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "argv": sys.argv,
    "versions": versions(),
    "commit": _commit(),
    "machine": platform.machine(),
    "cpus": os.cpu_count(),
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
  }


def public_environment() -> dict[str, Any]:
  """`environment` for what is published.

  With the load average, without which no timing says much.
  """
  return {
    **public(environment()),
    "load_average": [round(load, 1) for load in os.getloadavg()],
  }


def public(found: dict[str, Any]) -> dict[str, Any]:
  """An environment in which files go by their names alone."""
  return {**found, "argv": [_short(word) for word in found["argv"]]}


def _short(word: str) -> str:
  """A word of a command without this machine's directories."""
  parts = []
  for part in word.split(","):
    flag, equals, value = part.rpartition("=")
    if value.startswith("/"):
      value = pathlib.PurePath(value).name
    parts.append(flag + equals + value)
  return ",".join(parts)


def _commit() -> str | None:
  """The commit of this source tree, `+` if it has changes; None if unknown."""
  git = functools.partial(
    subprocess.run,
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=True,
  )
  try:
    commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain"]).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None
  return commit + ("+" if changed else "")


class Progress:
  """A bar on a terminal, a line now and then elsewhere."""

  def __init__(self, total: int, done: int, unit: str, every: float = 30.0):
    self._total, self._done, self._every = total, done, every
    self._unit = unit
    self._begun, self._first = time.monotonic(), done
    self._said = self._begun
    self._note = ""
    self._bar = None
    if sys.stderr.isatty() and is_writer():
      self._bar = tqdm.tqdm(total=total, initial=done, unit=unit)

  def advance(self, note: str) -> None:
    """One more is done; `note` says how it went."""
    self._done += 1
    self._note = note
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update()
    elif time.monotonic() - self._said >= self._every:
      self._say()

  def _say(self) -> None:
    now = time.monotonic()
    self._said = now
    pace = (now - self._begun) / max(self._done - self._first, 1)
    left = datetime.timedelta(seconds=round(pace * (self._total - self._done)))
    logging.info(
      "%d/%d %s, %.2f s each, %s left: %s",
      self._done,
      self._total,
      self._unit,
      pace,
      left,
      self._note,
    )

  def close(self) -> None:
    """Ends the bar, or says the last line."""
    if self._bar is not None:
      self._bar.close()
    elif self._done > self._first:
      self._say()


@contextlib.contextmanager
def progress(total: int, *, done: int = 0, unit: str) -> Iterator[Progress]:
  """Shows how far a loop has come.

  Args:
    total: how many there are.
    done: how many were done before.
    unit: what is counted.

  Yields:
    A `Progress` to `advance`.
  """
  shown = Progress(total, done, unit)
  try:
    yield shown
  finally:
    shown.close()
