"""Host: the processes of a job, before any of them uses JAX.

Every process runs the same command. On a TPU pod, under Slurm and Open MPI
`--distributed` is enough: JAX finds out the rest. Elsewhere each is told:

  --coordinator=HOST:PORT --num_processes=4 --process_id=0

where HOST is that of process 0 and the PORT is free there.
"""

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import filelock
import jax
from absl import flags
from etils import epath

import byteprob

_STILL_JAX = 60
"""Seconds that JAX waits longer than we do: it ends a process without a word
about who is missing."""


def define_flags() -> None:
  """Declares the flags that say which process of a job this one is."""
  flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of this job, as the cluster says.",
  )
  flags.DEFINE_string(
    "coordinator",
    os.environ.get("JAX_COORDINATOR_ADDRESS"),
    "Join the other processes of this job at HOST:PORT of process 0.",
  )
  flags.DEFINE_integer(
    "num_processes", None, "How many there are.", lower_bound=1
  )
  flags.DEFINE_integer(
    "process_id", None, "Which of them this is.", lower_bound=0
  )
  flags.DEFINE_float(
    "join_timeout", 300, "Seconds to wait for all of them.", lower_bound=1
  )


def join(workdir: epath.Path, *, restarts: bool) -> None:
  """Joins the job that the flags name, if any; the first thing to do.

  Args:
    workdir: a directory that all processes see.
    restarts: a process that has died may be started again while the others go
      on; for jobs whose processes do not wait for one another. Without, the
      death of one ends all.

  Raises:
    ByteprobError: the flags are incomplete.
    SystemExit: not all processes came in time (the message has the indices of
      those that did not).
  """
  given = flags.FLAGS
  if not (given.distributed or given.coordinator):
    return
  # Across CPUs there is no other way than Gloo, and elsewhere it is not used.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_recoverability", restarts)
  index, count = given.process_id, given.num_processes
  seconds = given.join_timeout
  waiting = contextlib.nullcontext()
  if given.coordinator:
    if index is None or count is None or index >= count:
      raise byteprob.ByteprobError(
        "--coordinator needs --num_processes and a --process_id below it"
      )
    waiting = _waiting(workdir / "hosts", index, count, seconds)
  with waiting:
    jax.distributed.initialize(
      given.coordinator,
      count,
      index,
      initialization_timeout=round(seconds) + _STILL_JAX,
    )


@contextlib.contextmanager
def _waiting(
  hosts: epath.Path, index: int, count: int, seconds: float
) -> Iterator[None]:
  """Ends this process if the others do not come in time.

  Each leaves a file with the time while it waits.
  """
  hosts.mkdir(parents=True, exist_ok=True)
  begun = time.time()
  own = hosts / str(index)
  own.write_text(str(begun))

  def give_up() -> None:
    # What an earlier start has left is older.
    here = [
      int(path.name)
      for path in hosts.iterdir()
      if float(path.read_text()) > begun - seconds
    ]
    missing = [str(k) for k in range(count) if k not in here]
    print(
      f"error: of {count} processes these have not come in {seconds:g} s:"
      f" {', '.join(missing) or 'unknown'}; start the same command there, with"
      " --process_id (this is process"
      f" {index}; the coordinator is {flags.FLAGS.coordinator})",
      file=sys.stderr,
      flush=True,
    )
    # JAX waits in C++, where no exception would reach it.
    os._exit(1)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
    own.unlink()


def hold(workdir: epath.Path) -> filelock.BaseFileLock | None:
  """Keeps other jobs out of a directory for as long as this process lives.

  The lock is the system's, and gone when its holder is dead. Object stores
  have none: there nothing is done.

  Args:
    workdir: the directory, which is there.

  Returns:
    What must be kept.

  Raises:
    SystemExit: another job writes there.
  """
  if is_remote(workdir):
    return None
  name = f"writer-{jax.process_index()}"
  lock = filelock.FileLock(workdir / f"{name}.lock")
  said = workdir / f"{name}.json"
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    holder = "another process"
    with contextlib.suppress(OSError, ValueError, KeyError):
      found = json.loads(said.read_text())
      holder = "process {pid} on {host}, since {since},".format_map(found)
    raise SystemExit(
      f"{workdir}: {holder} writes there; wait for it or stop it, or give"
      " another --workdir"
    ) from None
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  value = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
  said.write_text(json.dumps(value) + "\n")
  return lock


def is_remote(path: epath.Path) -> bool:
  """Whether a path is in an object store (`gs://`)."""
  return "://" in os.fspath(path)
