"""Jobs of several real processes: shared, killed, started again, refused."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from typing import ClassVar

import fsspec
import ml_collections
import pytest
from fsspec.implementations import memory

from experiments import _job, _runtime, _study

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ml_collections.ConfigDict({"count": 8, "seconds": 0.0})


def free_port() -> int:
  """A port that nobody listens to."""
  with socket.socket() as one:
    one.bind(("localhost", 0))
    return one.getsockname()[1]


class Job:
  """Processes that run one command."""

  def __init__(self, count: int, *words: str):
    self.count, self.words, self.port = count, words, free_port()

  def start(self, index: int) -> subprocess.Popen:
    """Starts one of them."""
    joined = [
      f"--coordinator=localhost:{self.port}",
      f"--num_processes={self.count}",
      f"--process_id={index}",
    ]
    return subprocess.Popen(
      [sys.executable, *self.words, *(joined if self.count > 1 else [])],
      cwd=ROOT,
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "GLOG_minloglevel": "3",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self) -> list[str]:
    """Runs all of them to their end; what they print."""
    return ended([self.start(index) for index in range(self.count)])


def ended(processes: list[subprocess.Popen], limit: float = 400) -> list[str]:
  """Waits for processes that should do well."""
  found = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=limit)
      assert process.returncode == 0, err[-3000:]
      found.append(out)
  finally:
    for process in processes:
      process.kill()
  return found


def squares(workdir: pathlib.Path, *more: str) -> list[str]:
  """The command of the study of squares."""
  return ["tests/experiments/job_script.py", f"--workdir={workdir}", *more]


def lines(workdir: pathlib.Path) -> list[str]:
  """The lines of all results files, in the examples' order."""
  found = [
    line
    for path in workdir.glob("results*.jsonl")
    for line in path.read_text().splitlines()
  ]
  return sorted(found, key=lambda line: json.loads(line)["example"])


def wait_for(condition, seconds: float = 60) -> None:
  """Waits until something is so."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_two_processes_share_and_one_that_is_killed_comes_back(tmp_path):
  alone, shared = tmp_path / "alone", tmp_path / "shared"
  Job(1, *squares(alone, "--config.seconds=0.4")).run()
  job = Job(2, *squares(shared, "--config.seconds=0.4"))
  processes = [job.start(0), job.start(1)]
  own = shared / "results-1.jsonl"
  wait_for(lambda: own.exists() and own.read_bytes().count(b"\n") >= 1)
  processes[1].kill()
  processes[1].wait()
  done = own.read_bytes().count(b"\n")
  assert done < 4
  processes[1] = job.start(1)
  said = ended(processes)
  assert said == ["8 squares\n", ""]
  assert own.read_bytes().count(b"\n") == 4
  assert lines(shared) == lines(alone)
  for name in ("summary.json", "config.json"):
    assert (shared / name).read_bytes() == (alone / name).read_bytes()
  assert (shared / "figures" / "squares.png").exists()
  assert not list((shared / "hosts").iterdir())


@pytest.mark.slow
def test_when_the_first_dies_all_end_and_any_number_goes_on(tmp_path):
  job = Job(3, *squares(tmp_path, "--config.seconds=1.5"))
  processes = [job.start(index) for index in range(3)]
  wait_for(lambda: len(lines(tmp_path)) >= 3)
  processes[0].kill()
  for process in processes:
    process.communicate(timeout=150)
    assert process.returncode != 0
  assert len(lines(tmp_path)) < 8
  Job(2, *squares(tmp_path, "--config.seconds=1.5")).run()
  found = [json.loads(line)["example"] for line in lines(tmp_path)]
  assert found == [str(k) for k in range(8)]


@pytest.mark.slow
def test_an_experiment_gives_the_same_with_four_processes(tmp_path):
  for count in (1, 4):
    words = [
      "-m",
      "experiments.bias",
      "--config=configs/bias.py:tiny",
      f"--workdir={tmp_path / str(count)}",
    ]
    Job(count, *words).run()
  assert len(list((tmp_path / "4").glob("results*.jsonl"))) == 4
  assert lines(tmp_path / "4") == lines(tmp_path / "1")
  one, four = (tmp_path / k / "summary.json" for k in "14")
  assert one.read_bytes() == four.read_bytes()


def test_a_process_that_never_comes_is_named(tmp_path):
  job = Job(3, *squares(tmp_path, "--join_timeout=6"))
  processes = [job.start(0), job.start(2)]
  # One that an earlier start has left.
  (tmp_path / "hosts").mkdir(exist_ok=True)
  (tmp_path / "hosts" / "1").write_text(str(time.time() - 60))
  for process in processes:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (said,) = re.findall("error: .*", err)
    assert "of 3 processes these have not come in 6 s: 1;" in said
  assert not (tmp_path / "config.json").exists()


def test_flags_that_are_not_complete(tmp_path):
  for more in ((), ("--process_id=2", "--num_processes=2")):
    words = squares(tmp_path, "--coordinator=localhost:1", *more)
    done = subprocess.run(
      [sys.executable, *words],
      cwd=ROOT,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --coordinator needs --num_processes")


HOLDER = """
import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_workdir_that_others_write_to(tmp_path):
  workdir = _runtime.Workdir(tmp_path / "run")
  workdir.begin(CONFIG)
  with pytest.raises(SystemExit, match=rf"process {os.getpid()} on .* writes"):
    _runtime.Workdir(tmp_path / "run").begin(CONFIG)
  del workdir
  _runtime.Workdir(tmp_path / "run").begin(CONFIG)
  path = tmp_path / "run" / "writer-0.lock"
  with subprocess.Popen(
    [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE
  ) as holder:
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(SystemExit, match="wait for it or stop it, or give"):
      _runtime.Workdir(tmp_path / "run").begin(CONFIG)
    holder.kill()
  # What the dead have left is no obstacle.
  assert path.exists()
  _runtime.Workdir(tmp_path / "run").begin(CONFIG)


class Bucket(memory.MemoryFileSystem):
  """An object store: files cannot grow."""

  store: ClassVar[dict] = {}
  pseudo_dirs: ClassVar[list] = [""]

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("gs://"))

  def open(self, path, mode="rb", **rest):
    assert "a" not in mode and "+" not in mode
    return super().open(path, mode, **rest)


def test_a_workdir_in_an_object_store(tmp_path):
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  import job_script

  workdir = _runtime.Workdir("gs://bucket/run")
  assert _job.is_remote(workdir.path)
  _study.collect(workdir, CONFIG, job_script.STUDY)
  again = _runtime.Workdir("gs://bucket/run")
  _study.collect(again, CONFIG, job_script.STUDY)
  kept = tmp_path / "squares"
  _study.finish(again, CONFIG, job_script.STUDY, str(kept))
  assert len(again.records("results.jsonl")) == 8
  summary = json.loads((again / "summary.json").read_text())
  assert summary == {"squares": [k * k for k in range(8)]}
  assert (tmp_path / "squares-squares.png").read_bytes()[1:4] == b"PNG"
  other = ml_collections.ConfigDict({"count": 9, "seconds": 0.0})
  with pytest.raises(SystemExit, match="they differ in count"):
    _study.collect(again, other, job_script.STUDY)
