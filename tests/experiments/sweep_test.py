"""Sweeps: what they expand to, go on with, tell of, and refuse."""

import json
import pathlib
import shlex
import subprocess
import sys

import ml_collections
import pytest

import byteprob
from configs import sweep as sweep_config
from experiments import _runtime, sweep

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def config(monkeypatch):
  """A sweep of four runs, of which one fails."""
  monkeypatch.setenv("PYTHONPATH", str(HERE))
  monkeypatch.setenv("FAILS", "it's $1/é")
  given = sweep_config.get_config()
  given.experiment = "sweep_script"
  given.config = str(HERE / "sweep_script.py")
  given.grid = ml_collections.ConfigDict(
    {"name": ("it's $1/é", "b c"), "inner": {"rate": (0.5, 2e-9)}}
  )
  given.zipped = ml_collections.ConfigDict({"sizes": ((3,),), "on": (False,)})
  given.show = ("asked.inner.rate", "a.b.c.1.d", "asked.name")
  return given


def starts(workdir: _runtime.Workdir) -> list[str]:
  """The names of all runs that have ended, in order."""
  return [record["run"] for record in workdir.records("runs.jsonl")]


def test_what_failed_is_told_and_tried_again_and_the_rest_is_not(
  config, tmp_path, monkeypatch, capsys
):
  workdir, runs = _runtime.Workdir(tmp_path), sweep.expand(config)
  assert len(runs) == 4
  sweep.begin(config, workdir)
  sweep.run_all(config, workdir, runs)
  assert starts(workdir) == list(runs)
  bad = [name for name in runs if "it_s" in name]
  assert capsys.readouterr().err.count("failed: ") == len(bad) == 2
  log = (tmp_path / "logs" / f"{bad[0]}.log").read_text()
  assert log.splitlines() == ["asked for it's $1/é", "this one fails"]
  summary = sweep.summarize(config, workdir, runs)
  good = [row for row in summary["runs"] if row["done"]]
  assert [row["run"] for row in good] == [n for n in runs if n not in bad]
  # Every value has come as it is.
  for row in good:
    path = tmp_path / "runs" / row["run"] / "summary.json"
    asked = json.loads(path.read_text())
    assert asked["argv"] == []
    assert asked["asked"] == {
      "name": "b c",
      "sizes": [3],
      "on": False,
      "inner": {"rate": row["values"]["inner.rate"]},
    }
    assert row["found"] == {
      "asked.inner.rate": row["values"]["inner.rate"],
      "a.b.c.1.d": 0.5,
      "asked.name": "b c",
    }
  # A kill may leave a part of a line, and results that nobody vouches for.
  with (workdir / "runs.jsonl").open("a") as file:
    file.write('{"run": "na')
  monkeypatch.setenv("FAILS", "none")
  (tmp_path / "runs" / good[1]["run"] / "summary.json").unlink()
  # And a sweep may grow.
  config.grid.name = (*config.grid.name, "new")
  more = sweep.expand(config)
  sweep.begin(config, workdir)
  sweep.run_all(config, workdir, more)
  kept = good[0]["run"]
  again = [name for name in more if name != kept]
  assert len(again) == 5
  assert starts(workdir) == [*runs, *again]
  summary = sweep.summarize(config, workdir, more)
  assert all(row["done"] for row in summary["runs"])
  assert not list(sweep.lacking(summary))
  config.flags = ("--workdir={run}", "--mesh=model:2")
  with pytest.raises(byteprob.ByteprobError, match="runs with another flags"):
    sweep.begin(config, workdir)


def test_table():
  rows = [
    {"done": True, "values": {"model.size": 1}, "seconds": 2.0},
    {"done": False, "values": {"model.size": 100}},
    {"done": True, "values": {"model.size": 3}, "seconds": 12.5},
  ]
  rows[0]["found"], rows[2]["found"] = {"x.y": 0.1}, {"x.y": None}
  summary = {"keys": ["model.size"], "shown": ["x.y"], "runs": rows}
  assert sweep.table(summary).splitlines() == [
    "size  seconds    y",
    "1           2  0.1",
    "100    failed    -",
    "3        12.5    -",
  ]
  assert not list(sweep.lacking(summary))
  rows[0]["found"]["x.y"] = None
  assert list(sweep.lacking(summary)) == ["x.y"]


@pytest.mark.parametrize(
  ("path", "wanted"),
  [
    ("a", {"b": [1, 2]}),
    ("a.b.1", 2),
    ("a.b.2", None),
    ("a.c", None),
    ("v1.2.x", 3),
    ("a.b.1.x", None),
  ],
)
def test_dotted_paths(path, wanted):
  found = {"a": {"b": [1, 2]}, "v1.2": {"x": 3}}
  assert sweep.look_up(found, path) == wanted


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"grid": {"model": "one"}}, "where a sweep has a tuple of values"),
    ({"grid": {"a": ()}}, "nothing to run"),
    ({"grid": {}}, "nothing to run"),
    ({"grid": {"a": ("b/c", "b_c")}}, "two runs would have the name 'a=b_c'"),
    ({"zipped": {"a": (1, 2), "b": (1,)}}, "a has 2, b has 1"),
    ({"grid": {"a": {"b": (1,)}}, "zipped": {"a": {"b": (2,)}}}, "a.b: in con"),
  ],
)
def test_what_is_no_sweep_is_refused(changes, said):
  config = sweep_config.get_config()
  for key, value in changes.items():
    config[key] = ml_collections.ConfigDict(value)
  with pytest.raises(byteprob.ByteprobError, match=said):
    sweep.expand(config)


def test_a_launcher_comes_before_the_experiment(config, tmp_path):
  config.launcher = "launch/local.sh '--python=a b' --"
  words = sweep.command(config, {"on": True}, tmp_path)
  assert words[:4] == ["launch/local.sh", "--python=a b", "--", "sweep_script"]
  assert words[-1] == f"--workdir={tmp_path}"


def run(*words: str) -> subprocess.CompletedProcess:
  """The script, with this directory's experiment."""
  return subprocess.run(
    [sys.executable, "-m", "experiments.sweep", *words],
    cwd=HERE.parents[1],
    capture_output=True,
    text=True,
  )


def test_the_command(config, tmp_path):
  words = [
    f"--workdir={tmp_path / 'run'}",
    "--config=configs/sweep.py:tiny",
    f"--config.experiment={config.experiment}",
    f"--config.config={config.config}",
    "--config.grid.model=('x',)",
  ]
  shown = run(*words, "--dry_run")
  assert shown.returncode == 0, shown.stderr
  (line,) = shown.stdout.splitlines()
  assert "--config.model=x" in shlex.split(line)
  assert not (tmp_path / "run").exists()
  # This experiment has no such key.
  done = run(*words)
  assert done.returncode == 1
  said = done.stderr.strip().splitlines()[-1]
  assert said.startswith("error: 1 of 1 runs failed (most=2,size=60,model=x")
  (row,) = json.loads((tmp_path / "run" / "summary.json").read_text())["runs"]
  assert not row["done"]
