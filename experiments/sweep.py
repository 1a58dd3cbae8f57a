"""Host: many runs of one experiment, and a table of what they gave.

  python -m experiments.sweep --config=configs/sweep.py --workdir=runs/sweep

Each run is a process of its own with a directory of its own:

  runs.jsonl         how each run ended, in the order that they did
  runs/NAME/         what the run wrote
  logs/NAME.log      what it printed
  summary.json       the table, and summary.txt as text

A run that has ended well is not run again, so a sweep that was killed goes on,
and one whose configuration has got further values runs those alone. One that
has failed is told in the table, and tried again at the next start.
"""

import contextlib
import pathlib
import shlex

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from experiments import _job, _runtime, _sweep

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/sweep.py", "What to run.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where to write.", required=True
)
_RESULTS = flags.DEFINE_string(
  "results", None, "Also keep the table here: PATH.json."
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Only print the commands that are left to run."
)


def main() -> None:
  """Does what the flags say."""
  # Devices are the runs': some can be held by one process alone.
  jax.config.update("jax_platforms", "cpu")
  config, workdir = _CONFIG.value, _runtime.Workdir(_WORKDIR.value)
  runs = _sweep.expand(config)
  if _DRY_RUN.value:
    done = _sweep.ended_well(config, workdir)
    for name in runs:
      if name not in done:
        words = _sweep.command(config, runs[name], workdir / "runs" / name)
        print(shlex.join(words))
    return
  workdir.path.mkdir(parents=True, exist_ok=True)
  with _job.hold(workdir.path) or contextlib.nullcontext():
    _sweep.begin(config, workdir)
    _sweep.run_all(config, workdir, runs)
  summary = _sweep.summarize(config, workdir, runs)
  workdir.write_json("summary.json", summary)
  _runtime.write_text(workdir / "summary.txt", _sweep.table(summary) + "\n")
  print(_sweep.table(summary))
  if _RESULTS.value:
    kept = pathlib.Path(_RESULTS.value)
    _runtime.write_json(kept.with_name(f"{kept.name}.json"), summary)
  if paths := list(_sweep.lacking(summary)):
    raise byteprob.ByteprobError(
      f"no {config.result} has {', '.join(paths)}; name other paths in"
      " config.show, and run the same command again: nothing is run twice"
    )
  if failed := [row["run"] for row in summary["runs"] if not row["done"]]:
    raise byteprob.ByteprobError(
      f"{len(failed)} of {len(runs)} runs failed ({failed[0]} first); see"
      f" {workdir / 'logs'}, and run the same command again to try them again"
    )


if __name__ == "__main__":
  _runtime.main(main)
