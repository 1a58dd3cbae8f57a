"""Host: programs that nobody has read can do no harm."""

import os
import sys
import tempfile
import textwrap
import time

import pytest

from experiments import _sandbox

pytestmark = pytest.mark.skipif(
  sys.platform != "linux", reason="programs run on Linux alone"
)


def outcome(program: str, **limits) -> _sandbox.Outcome:
  return _sandbox.run(textwrap.dedent(program), _sandbox.Limits(**limits))


def test_what_passes_passes():
  found = outcome("""
    import collections, itertools, math, re, string, typing, hashlib, heapq
    import datetime, random, functools, statistics, bisect, json, decimal
    print("to nobody")
    assert math.gcd(12, 18) == 6
    assert sorted(random.sample(range(9), 9)) == list(range(9))
    assert hashlib.md5(b"a").hexdigest().startswith("0cc1")
  """)
  assert found == _sandbox.Outcome(True, "")


@pytest.mark.parametrize(
  ("program", "reason"),
  [
    ("assert 1 == 2", "AssertionError"),
    ("def (", "SyntaxError"),
    ("raise KeyError(3)", "KeyError"),
    ("import sys; sys.exit(0)", "SystemExit"),
    ("import os; os._exit(0)", "exit"),
    ("print('passed')\nraise ValueError", "ValueError"),
    ("def f(): return f()\nf()", "RecursionError"),
    ("import os; os.kill(os.getpid(), 9)", "PermissionError"),
  ],
)
def test_what_fails_says_how(program, reason):
  assert outcome(program) == _sandbox.Outcome(False, reason)


def test_time_is_limited():
  begun = time.monotonic()
  assert outcome("while True: pass", seconds=1).reason == "time"
  assert outcome("import time; time.sleep(60)", seconds=1).reason == "time"
  assert time.monotonic() - begun < 20


def test_memory_is_limited():
  found = outcome("x = [bytearray(1 << 20) for _ in range(4096)]",
                  megabytes=300)  # fmt: skip
  assert found == _sandbox.Outcome(False, "MemoryError")


DENIED = "PermissionError"


@pytest.mark.parametrize(
  "program",
  [
    "import os; os.fork()",
    "import os; os.forkpty()",
    "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "import os; os.execv('/bin/true', ['true'])",
    "import subprocess; subprocess.run(['true'])",
    "import multiprocessing as m; p = m.Process(target=print); p.start()",
    "import socket; socket.socket()",
    "import os; os.kill(os.getppid(), 9)",
    "import os, signal; os.killpg(0, signal.SIGKILL)",
    "import os; os.setsid()",
    "open('here', 'w')",
    "import os; os.mkdir('here')",
    "import os; os.symlink('/etc', 'here')",
    "import os; os.chmod('.', 0o777)",
    "import os; os.truncate('/etc/hostname', 0)",
    "open('/etc/passwd')",
    "open('/proc/PARENT/environ')",
    "import os; os.listdir('/')",
    "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "import os; os.nice(-5)",
    "import os; os.memfd_create('m')",
    "import os; os.setuid(0)",
  ],
)
def test_it_may_only_compute(program):
  found = outcome(program.replace("PARENT", str(os.getpid())))
  assert not found.passed
  # `subprocess` and `multiprocessing` tell of it in their own words.
  assert found.reason in (DENIED, "OSError", "ValueError", "BlockingIOError")


def test_nothing_is_written_anywhere(tmp_path):
  target = tmp_path / "found"
  target.write_text("mine")
  for program in (
    f"open({str(target)!r}, 'w').write('theirs')",
    f"open({str(tmp_path / 'new')!r}, 'w')",
    f"import os; os.unlink({str(target)!r})",
    f"import os; os.rename({str(target)!r}, 'x')",
  ):
    assert outcome(program).reason == DENIED
  assert [path.name for path in tmp_path.iterdir()] == ["found"]
  assert target.read_text() == "mine"


def test_it_cannot_flood_who_waits_for_its_answer():
  found = outcome("""
    import os
    for fd in range(3, 20):
      try:
        while True:
          os.write(fd, bytes(1 << 16))
      except OSError:
        pass
  """)
  assert found.reason == "exit"


def test_the_environment_is_not_seen(monkeypatch):
  monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
  assert outcome("""
    import os
    assert "SECRET_OF_THE_PARENT" not in os.environ
    assert len(os.environ) < 3, os.environ
  """).passed


def test_its_directory_is_its_own_and_goes_away(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  place = f"import os; assert os.getcwd().startswith({str(tmp_path)!r})"
  assert outcome(place).passed
  assert not list(tmp_path.iterdir())


def test_threads_are_computing_too():
  assert outcome("""
    import threading
    found = []
    one = threading.Thread(target=lambda: found.append(1))
    one.start()
    one.join()
    assert found == [1]
  """).passed


def test_where_it_cannot_be_confined_nothing_runs(monkeypatch, tmp_path):
  child = tmp_path / "child.py"
  child.write_text("import os; os._exit(77)")
  monkeypatch.setattr(_sandbox, "_CHILD", child)
  with pytest.raises(_sandbox.ByteprobError, match="cannot confine"):
    _sandbox.run("pass")
  monkeypatch.setattr(sys, "platform", "darwin")
  with pytest.raises(_sandbox.ByteprobError, match="Linux alone"):
    _sandbox.run("pass")
