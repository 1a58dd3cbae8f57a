"""Host: whether a generated program passes its test, with nothing at stake.

Each program runs in a process of its own (`_sandbox_child.py`): it may compute
and read Python's library, and nothing else. See `run`.
"""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile

from byteprob.errors import ByteprobError

_CHILD = pathlib.Path(__file__).with_name("_sandbox_child.py")
_UNABLE = 77
"""How the child exits where the system cannot confine it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Limits of the resources that a program may use.

  Attributes:
    seconds: of wall time, and of CPU time too.
    megabytes: of memory.
  """

  seconds: float = 5.0
  megabytes: int = 1024


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a program ended.

  Attributes:
    passed: it ran to its end.
    reason: what else it did: the name of an exception, "time", "exit" or
      "killed"; empty if it passed.
  """

  passed: bool
  reason: str


def run(program: str, limits: Limits = Limits()) -> Outcome:
  """Runs a program that nobody has read.

  It cannot start processes, open sockets, write files, read any but the
  interpreter's, signal others, or see this process's environment; its memory
  and its time are limited. It runs in an empty directory that is removed.

  Args:
    program: Python source; it passes by running to its end.
    limits: what it may use.

  Raises:
    ByteprobError: the system cannot confine it: it takes Linux with Landlock
      and seccomp, on x86-64 or AArch64.
  """
  if sys.platform != "linux":
    raise ByteprobError("generated programs run on Linux alone")
  word = secrets.token_hex(16)
  # It answers into a file, which is limited as a pipe is not.
  with (
    tempfile.TemporaryDirectory() as empty,
    tempfile.TemporaryFile() as answered,
  ):
    process = subprocess.Popen(
      [
        sys.executable,
        "-I",
        "-B",
        str(_CHILD),
        word,
        str(limits.seconds),
        str(limits.megabytes),
      ],
      stdin=subprocess.PIPE,
      stdout=answered,
      stderr=subprocess.DEVNULL,
      cwd=empty,
      env={},
      start_new_session=True,
    )
    late = False
    try:
      # What it prints goes nowhere: the child answers by itself.
      process.communicate(
        program.encode("utf-8", "surrogatepass"), limits.seconds + 5
      )
    except subprocess.TimeoutExpired:
      late = True
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.kill()
      process.communicate()
    answered.seek(0)
    answer = answered.read()
  if process.returncode == _UNABLE:
    raise ByteprobError(
      "this system cannot confine generated programs: it takes Linux 5.13 or"
      " newer with Landlock and seccomp; run without --execute"
    )
  if late or process.returncode == -signal.SIGXCPU:
    return Outcome(False, "time")
  said = answer.decode("utf-8", "replace").strip()
  if said == f"{word} passed":
    return Outcome(True, "")
  if said.startswith(f"{word} "):
    return Outcome(False, said.removeprefix(f"{word} "))
  return Outcome(False, "killed" if process.returncode < 0 else "exit")
