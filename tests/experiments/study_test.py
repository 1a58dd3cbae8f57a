"""Host: studies are resumed by example, and their figures redrawn."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import matplotlib.pyplot
import ml_collections
import pytest

from experiments import _plots, _runtime, _study

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = ml_collections.ConfigDict({"count": 5, "model": "none"})


def study(asked: list[str], stop_at: str = "") -> _study.Study:
  """Squares of numbers; `asked` tells which were asked for."""

  def begin(config):
    def one(example):
      if example == stop_at:
        raise KeyboardInterrupt
      asked.append(example)
      return {"square": int(example) ** 2}

    return one

  def draw(summary):
    figure, axis = _plots.pyplot().subplots()
    axis.plot(summary["squares"])
    return {"squares": figure}

  return _study.Study(
    examples=lambda config: [str(k) for k in range(config.count)],
    begin=begin,
    summarize=lambda config, records: {
      "squares": [record["square"] for record in records]
    },
    report=lambda summary: f"{len(summary['squares'])} squares",
    draw=draw,
  )


def test_what_was_interrupted_goes_on_and_nothing_comes_twice(tmp_path, capsys):
  workdir = _runtime.Workdir(tmp_path / "run")
  asked: list[str] = []
  with pytest.raises(KeyboardInterrupt):
    _study.collect(workdir, CONFIG, study(asked, stop_at="3"))
  assert asked == ["0", "1", "2"]
  # A kill may leave a part of a line.
  with (workdir / "results.jsonl").open("a") as file:
    file.write('{"example": "3", "squ')
  with pytest.raises(FileNotFoundError, match=r"lacks 2 of 5 examples \(3"):
    _study.finish(workdir, CONFIG, study([]), None)
  _study.collect(workdir, CONFIG, study(asked))
  assert asked == ["0", "1", "2", "3", "4"]
  lines = (workdir / "results.jsonl").read_text().splitlines()
  assert [json.loads(line)["example"] for line in lines] == asked

  def begin(config):
    raise AssertionError("there is nothing left to ask")

  rest = _study.Study(**{**vars(study([])), "begin": begin})
  _study.collect(workdir, CONFIG, rest)
  kept = tmp_path / "kept" / "squares"
  open_before = matplotlib.pyplot.get_fignums()
  _study.finish(workdir, CONFIG, rest, str(kept))
  assert capsys.readouterr().out == "5 squares\n"
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary == {"squares": [0, 1, 4, 9, 16]}
  found = json.loads((tmp_path / "kept" / "squares.json").read_text())
  assert found["summary"] == summary
  assert found["config"] == {"count": 5, "model": "none"}
  assert str(tmp_path) not in json.dumps(found)
  figure = (workdir / "figures" / "squares.png").read_bytes()
  assert figure.startswith(b"\x89PNG")
  assert (tmp_path / "kept" / "squares-squares.png").read_bytes() == figure
  assert matplotlib.pyplot.get_fignums() == open_before


def test_another_configuration_is_refused(tmp_path):
  workdir = _runtime.Workdir(tmp_path)
  _study.collect(workdir, CONFIG, study([]))
  other = ml_collections.ConfigDict({"count": 6, "model": "none"})
  with pytest.raises(SystemExit, match="they differ in count"):
    _study.collect(workdir, other, study([]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_the_examples_however_many(
  tmp_path, monkeypatch, count
):
  workdir = _runtime.Workdir(tmp_path)
  asked: list[str] = []
  with pytest.raises(KeyboardInterrupt):
    _study.collect(workdir, CONFIG, study(asked, stop_at="3"))
  monkeypatch.setattr(_study.jax, "process_count", lambda: count)
  for index in reversed(range(count)):
    monkeypatch.setattr(_study.jax, "process_index", lambda k=index: k)
    _study.collect(workdir, CONFIG, study(asked))
  assert sorted(asked) == ["0", "1", "2", "3", "4"]
  assert list(sorted(_study.records_of(workdir))) == sorted(asked)


def command(name: str, workdir: pathlib.Path, *more: str) -> list[str]:
  return [
    sys.executable,
    "-m",
    f"experiments.{name}",
    f"--config=configs/{name}.py:tiny",
    f"--workdir={workdir}",
    *more,
  ]


def test_a_killed_run_goes_on_and_is_redrawn_without_a_device(tmp_path):
  workdir = tmp_path / "run"
  words = command("bits_per_byte", workdir, "--config.most=40")
  records = workdir / "results.jsonl"
  with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
    deadline = time.monotonic() + 240
    while not (records.exists() and records.read_bytes().count(b"\n") >= 2):
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
  before = records.read_bytes()
  assert before.count(b"\n") < 40
  done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  after = records.read_bytes()
  assert after.startswith(before[: before.rfind(b"\n") + 1])
  found = [json.loads(line)["example"] for line in after.splitlines()]
  assert found == [str(k) for k in range(40)]
  summary = (workdir / "summary.json").read_text()
  (workdir / "summary.json").unlink()
  (workdir / "figures" / "documents.png").unlink()
  again = subprocess.run(
    [*command("bits_per_byte", workdir), "--redraw"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    # There is no such device: whoever asks for one fails.
    env={**os.environ, "JAX_PLATFORMS": "tpu"},
  )
  assert again.returncode == 0, again.stderr[-2000:]
  assert again.stdout == done.stdout
  assert (workdir / "summary.json").read_text() == summary
  assert (workdir / "figures" / "documents.png").is_file()


@pytest.mark.parametrize(
  ("name", "flag", "message"),
  [
    ("bias", "--config.texts=('latin',)", "there is no text 'latin'"),
    ("completion", "--config.context=2000000", "it takes more than"),
    ("vocabularies", "--config.tokenizers=stdlib-bpe", "at least two"),
    ("bits_per_byte", "--config.data=hub:a:b", "is not of the form hub:"),
    ("bits_per_byte", "--redraw", "No such file"),
  ],
)
def test_one_clear_line(tmp_path, name, flag, message):
  done = subprocess.run(
    command(name, tmp_path / "run", flag),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ") and message in last
