"""Host: an experiment over examples that can be killed and goes on.

Each example becomes one record in `results.jsonl`, and an example that has one
is not asked again. The processes of a job share the examples, and each writes
a file of its own (`results-1.jsonl` is the second's); how many there are may
change from one start to the next. They do not wait for one another, but for
the first, which makes the summary when all records are there: one that has
died can be started again while the others go on (if it is the first, all are).

The summary is made of the records and the figures of the summary, so that both
can be made again where there is neither model nor device (`--redraw`).
`--results=results/bias/smollm2` keeps what is small: `smollm2.json` and
`smollm2-*.png`.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags, logging
from etils import epath

import byteprob
from experiments import _plots, _runtime

Record = dict[str, Any]
Summary = dict[str, Any]

_LOOK_EVERY = 1.0
_PATIENCE = 3600.0
"""Seconds between two looks for the others' records, and how long there may be
no new one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """An experiment.

  Attributes:
    examples: the names of a configuration's examples, in order; cheap.
    begin: makes ready for a configuration, and returns what makes the record
      of an example by its name.
    summarize: from the configuration and all records, in the examples' order.
    report: a summary in words, for the terminal.
    draw: a summary's figures, by name; closed when they have been saved.
  """

  examples: Callable[[ml_collections.ConfigDict], Sequence[str]]
  begin: Callable[[ml_collections.ConfigDict], Callable[[str], Record]]
  summarize: Callable[[ml_collections.ConfigDict, list[Record]], Summary]
  report: Callable[[Summary], str]
  draw: Callable[[Summary], dict[str, Any]]


def main(
  config: str,
  study: Study,
  *mistakes: type[Exception],
  recorded: Sequence[flags.FlagHolder] = (),
) -> None:
  """Declares the flags of a script and runs it.

  Args:
    config: path of its default configuration.
    study: what it does.
    *mistakes: see `_runtime.main`.
    recorded: flags whose values become those of the configuration's fields of
      the same names, so that a run keeps to them.
  """
  asked, workdir = _runtime.define_flags(config)
  redraw = flags.DEFINE_bool(
    "redraw", False, "Only make summary and figures again, without a device."
  )
  results = flags.DEFINE_string(
    "results", None, "Also keep summary and figures here: PATH.json, PATH-*.png"
  )

  def run() -> None:
    for flag in recorded:
      asked.value[flag.name] = flag.value
    directory = _runtime.Workdir(workdir.value)
    if redraw.value:
      found = json.loads((directory / "config.json").read_text())
      finish(directory, ml_collections.ConfigDict(found), study, results.value)
      return
    _runtime.start(directory, restarts=True)
    collect(directory, asked.value, study)
    if _runtime.is_writer():
      wait_for_all(directory, study.examples(asked.value))
      finish(directory, asked.value, study, results.value)

  _runtime.main(run, *mistakes)


def collect(
  workdir: _runtime.Workdir, config: ml_collections.ConfigDict, study: Study
) -> None:
  """Makes the records that are not there yet."""
  index, count = jax.process_index(), jax.process_count()
  workdir.begin(config)
  own = f"results-{index}.jsonl" if index else "results.jsonl"
  workdir.mend(own)
  done = records_of(workdir)
  # By position, whatever is done: no two processes have one in common.
  names = list(study.examples(config))[index::count]
  left = [name for name in names if name not in done]
  if left:
    one = study.begin(config)
    first = len(names) - len(left)
    with _runtime.progress(len(names), done=first, unit="example") as bar:
      for name in left:
        workdir.append(own, {"example": name, **one(name)}, by_all=True)
        bar.advance(name)
        _runtime.forget_compiled()


def wait_for_all(workdir: _runtime.Workdir, names: Sequence[str]) -> None:
  """Waits until the job's other processes have made their records.

  Raises:
    ByteprobError: there has been no new one for long.
  """
  left, since = len(names), time.monotonic()
  while missing := sorted(set(names) - records_of(workdir).keys()):
    if len(missing) < left:
      left, since = len(missing), time.monotonic()
      logging.info("waiting for %d examples of other processes", left)
    if time.monotonic() - since > _PATIENCE:
      owner = names.index(missing[0]) % jax.process_count()
      raise byteprob.ByteprobError(
        f"{left} examples have no record ({missing[0]} is process {owner}'s),"
        f" and there has been no new one for {_PATIENCE:g} s; look at that"
        " process, or start the job again: what there is is kept"
      )
    time.sleep(_LOOK_EVERY)


def records_of(workdir: _runtime.Workdir) -> dict[str, Record]:
  """All records of all processes, by example."""
  return {
    record["example"]: record
    for path in sorted(workdir.path.glob("results*.jsonl"))
    for record in workdir.records(path.name)
  }


def finish(
  workdir: _runtime.Workdir,
  config: ml_collections.ConfigDict,
  study: Study,
  results: str | None,
) -> None:
  """Writes the summary and the figures.

  Raises:
    FileNotFoundError: there are no records.
  """
  records = records_of(workdir)
  names = list(study.examples(config))
  if missing := [name for name in names if name not in records]:
    raise FileNotFoundError(
      f"{workdir.path} lacks {len(missing)} of {len(names)} examples"
      f" ({missing[0]} first); run the same command without --redraw"
    )
  summary = study.summarize(config, [records[name] for name in names])
  # Not by the workdir, which asks the device which process this is.
  _runtime.write_json(workdir / "summary.json", summary)
  figures = workdir / "figures"
  save(study.draw(summary), figures)
  print(study.report(summary))
  if results:
    kept = pathlib.Path(results)
    environment = json.loads((workdir / "env.json").read_text())
    _runtime.write_json(
      kept.with_name(f"{kept.name}.json"),
      {
        "config": json.loads((workdir / "config.json").read_text()),
        "summary": summary,
        "environment": _runtime.public(environment),
      },
    )
    for figure in sorted(figures.glob("*.png")):
      copy = kept.with_name(f"{kept.name}-{figure.name}")
      copy.write_bytes(figure.read_bytes())


def save(figures: dict[str, Any], directory: epath.Path) -> None:
  """Saves figures by their names, and closes them."""
  pyplot = _plots.pyplot()
  directory.mkdir(parents=True, exist_ok=True)
  for name, figure in figures.items():
    with (directory / f"{name}.png").open("wb") as file:
      figure.savefig(file, format="png", dpi=160)
    pyplot.close(figure)
