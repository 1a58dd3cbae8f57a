"""Host: what a sweep runs, and what its table says; see `sweep.py`."""

import itertools
import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

import byteprob
from experiments import _job, _runtime

COMMON = ("experiment", "config", "flags", "result")
"""Keys of the configuration that are the same for all runs of a directory."""

Values = dict[str, Any]


def expand(config: ml_collections.ConfigDict) -> dict[str, Values]:
  """The runs of a sweep, by name: the values of the keys that differ.

  Raises:
    ByteprobError: the configuration names no runs, or two alike.
  """
  grid, zipped = flat(config.grid), flat(config.zipped)
  if len({len(values) for values in zipped.values()}) > 1:
    sizes = ", ".join(f"{k} has {len(v)}" for k, v in zipped.items())
    raise byteprob.ByteprobError(
      f"the keys of config.zipped must have as many values each: {sizes}"
    )
  if both := sorted(grid.keys() & zipped.keys()):
    raise byteprob.ByteprobError(
      f"{', '.join(both)}: in config.grid and in config.zipped"
    )
  points = list(zip(*zipped.values(), strict=True)) if zipped else [()]
  runs: dict[str, Values] = {}
  for point, *rest in itertools.product(points, *grid.values()):
    values = dict(zip([*zipped, *grid], [*point, *rest], strict=True))
    if (name := name_of(values)) in runs:
      raise byteprob.ByteprobError(f"two runs would have the name {name!r}")
    runs[name] = values
  if not any(runs.values()):
    raise byteprob.ByteprobError(
      "config.grid and config.zipped have no values: there is nothing to run"
    )
  return runs


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Sequence[Any]]:
  """The lists of values in a nested configuration, by dotted key.

  Raises:
    ByteprobError: a key has something else.
  """
  found: dict[str, Sequence[Any]] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      found |= flat(value, f"{prefix}{key}.")
    elif isinstance(value, list | tuple):
      found[prefix + key] = value
    else:
      raise byteprob.ByteprobError(
        f"{prefix}{key} has the value {value!r}, where a sweep has a tuple of"
        f" values: ({value!r},)"
      )
  return found


def name_of(values: Values) -> str:
  """A run's name, which is also its directory's."""
  words = (f"{key}={written(value)}" for key, value in values.items())
  return re.sub(r"[^\w.=,+-]+", "_", ",".join(words)) or "run"


def written(value: Any) -> str:
  """A value as it stands in a command's flag."""
  return value if isinstance(value, str) else repr(value)


def command(
  config: ml_collections.ConfigDict, values: Values, directory: epath.Path
) -> list[str]:
  """The words that start a run."""
  launcher = shlex.split(config.launcher) or [sys.executable, "-m"]
  return [
    *launcher,
    config.experiment,
    f"--config={config.config}",
    *(f"--config.{key}={written(value)}" for key, value in values.items()),
    *(word.replace("{run}", str(directory)) for word in config.flags),
  ]


def ended_well(
  config: ml_collections.ConfigDict, workdir: _runtime.Workdir
) -> dict[str, dict[str, Any]]:
  """The records of the runs that need not be run again, by name."""
  last = {record["run"]: record for record in workdir.records("runs.jsonl")}
  return {
    name: record
    for name, record in last.items()
    if record["code"] == 0
    and (workdir / "runs" / name / config.result).exists()
  }


def execute(words: Sequence[str], log: epath.Path) -> int:
  """Runs a command to its end.

  Args:
    words: the command.
    log: where its output goes.

  Returns:
    Its exit status.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  if _job.is_remote(log):
    # Where no file can grow.
    done = subprocess.run(
      words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log.write_bytes(done.stdout)
  else:
    with log.open("wb") as file:
      done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT)
  return done.returncode


def begin(config: ml_collections.ConfigDict, workdir: _runtime.Workdir) -> None:
  """Records the configuration.

  Raises:
    ByteprobError: the directory's runs are not those of this sweep.
  """
  path = workdir / "config.json"
  asked = json.loads(config.to_json_best_effort())
  if path.exists():
    found = json.loads(path.read_text())
    if differ := [key for key in COMMON if found.get(key) != asked[key]]:
      raise byteprob.ByteprobError(
        f"{workdir.path} holds runs with another {' and '.join(differ)}; give"
        " another --workdir, or delete this one"
      )
  workdir.write_json("config.json", asked)


def run_all(
  config: ml_collections.ConfigDict,
  workdir: _runtime.Workdir,
  runs: dict[str, Values],
) -> None:
  """Runs what has not ended well yet, one after the other."""
  workdir.mend("runs.jsonl")
  done = ended_well(config, workdir)
  left = [name for name in runs if name not in done]
  first = len(runs) - len(left)
  with _runtime.progress(len(runs), done=first, unit="run") as bar:
    for name in left:
      directory = workdir / "runs" / name
      directory.mkdir(parents=True, exist_ok=True)
      log = workdir / "logs" / f"{name}.log"
      begun = time.monotonic()
      code = execute(command(config, runs[name], directory), log)
      seconds = round(time.monotonic() - begun, 2)
      record = {"run": name, "code": code, "seconds": seconds}
      workdir.append("runs.jsonl", record)
      if code:
        print(f"failed: {name}, see {log}", file=sys.stderr)
      bar.advance(name)


def look_up(value: Any, path: str) -> Any:
  """Value at a dotted path in JSON; None if there is none.

  Keys may contain dots themselves, and lists are indexed by number.
  """
  if not path:
    return value
  parts = path.split(".")
  for size in range(1, len(parts) + 1):
    key, rest = ".".join(parts[:size]), ".".join(parts[size:])
    if isinstance(value, dict) and key in value:
      return look_up(value[key], rest)
  if isinstance(value, list) and parts[0].isdecimal():
    at = int(parts[0])
    return look_up(value[at], ".".join(parts[1:])) if at < len(value) else None
  return None


def summarize(
  config: ml_collections.ConfigDict,
  workdir: _runtime.Workdir,
  runs: dict[str, Values],
) -> dict[str, Any]:
  """The table, as JSON."""
  done = ended_well(config, workdir)
  rows = []
  for name, values in runs.items():
    row = {"run": name, "done": name in done, "values": values}
    if name in done:
      path = workdir / "runs" / name / config.result
      found = json.loads(path.read_text())
      row["seconds"] = done[name]["seconds"]
      row["found"] = {path: look_up(found, path) for path in config.show}
    rows.append(row)
  first = next(iter(runs.values()))
  return {
    "experiment": config.experiment,
    "config": config.config,
    "keys": list(first),
    "shown": list(config.show),
    "runs": rows,
  }


def table(summary: dict[str, Any]) -> str:
  """The table as aligned text."""
  columns = [*summary["keys"], "seconds", *summary["shown"]]
  lines = [[name.rpartition(".")[2] for name in columns]]
  if len(set(lines[0])) < len(columns):
    lines = [columns]
  for row in summary["runs"]:
    found = row.get("found", {})
    values = [row["values"][key] for key in summary["keys"]]
    values.append(row["seconds"] if row["done"] else "failed")
    values += [found.get(path) for path in summary["shown"]]
    lines.append(list(map(cell, values)))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      word.rjust(width) if number else word.ljust(width)
      for number, (word, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )


def cell(value: Any) -> str:
  """A value in few characters."""
  if isinstance(value, float) and math.isfinite(value):
    return f"{value:.5g}"
  return "-" if value is None else written(value)


def lacking(summary: dict[str, Any]) -> Iterable[str]:
  """Fields that are in no result."""
  done = [row for row in summary["runs"] if row["done"]]
  for path in summary["shown"]:
    if done and all(row["found"][path] is None for row in done):
      yield path
