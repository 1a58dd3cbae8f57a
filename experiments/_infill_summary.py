"""Host: what the middles that a model has filled in amount to.

All is a mean over tasks with its standard error, where the spans of one
program depend on each other, and is told for all tasks, for those whose middle
begins inside a token, and for those where it begins where a token does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _estimates, _plots, _study

INTERVAL = 1.96
"""Standard errors on each side of a 95 % interval."""

SCORE = "score"
"""Takes the place of a setting where true middles are scored."""

CUTS = {
  "all": "all",
  "inside": "middle begins inside a token",
  "boundary": "middle begins where a token does",
}

METHODS = ("byte", "cover", "token", "healing", "alignment")
COLORS = dict(
  zip(
    METHODS,
    (_plots.BLUE, _plots.SKY, _plots.RED, _plots.ORANGE, _plots.PURPLE),
    strict=True,
  )
)
HATCHES = dict(zip(METHODS, ("", "..", "//", "xx", "\\\\"), strict=True))

Table = dict[str, Any]


def summarize(config, records: Sequence[_study.Record]) -> _study.Summary:
  """Means with their errors, by kind, order, setting and way, and by cut."""
  # kind -> order -> setting or `SCORE` -> method -> records
  tree: Table = {}
  for record in records:
    kind, order, setting, method, _ = record["example"].split("|")
    own = tree.setdefault(kind, {}).setdefault(order, {})
    own.setdefault(setting, {}).setdefault(method, []).append(record)
  return {
    "model": config.model,
    "kinds": {kind: _kind(orders, config.ks) for kind, orders in tree.items()},
  }


def _kind(orders: Table, ks: Sequence[int]) -> Table:
  """Summary of one kind of tasks, which are the same in every order."""
  scores = next(iter(orders.values()))[SCORE]["all"]
  problems = joined(scores, "problems")
  places = places_of(joined(scores, "inside"))

  def by_way(values: Mapping[str, Sequence[float]], sign: int) -> Table:
    base = values.get("byte")
    return {
      way: by_cut(own, None if way == "byte" else base, problems, places, sign)
      for way, own in values.items()
    }

  told: Table = {}
  for order, settings in orders.items():
    scores = settings[SCORE]["all"]
    nats = {
      way: [value for record in scores for value in record["nats"][way]]
      for way in scores[0]["nats"]
    }
    told[order] = {"nats": by_way(nats, -1), "settings": {}}
    for setting, rows in settings.items():
      if setting == SCORE:
        continue
      found = {way: measured(own, ks) for way, own in rows.items()}
      told[order]["settings"][setting] = {
        "measures": {
          name: by_way({way: own[name] for way, own in found.items()}, 1)
          for name in next(iter(found.values()))
        },
        "speed": {way: speed(own) for way, own in rows.items()},
      }
  sizes = {"tasks": len(problems), "inside": len(places["inside"])}
  return {**sizes, "orders": told}


def places_of(insides: Sequence[bool]) -> dict[str, list[int]]:
  """The tasks of each of `CUTS`, by their numbers."""
  return {
    "all": list(range(len(insides))),
    "inside": [k for k, found in enumerate(insides) if found],
    "boundary": [k for k, found in enumerate(insides) if not found],
  }


def joined(records: Sequence[_study.Record], key: str) -> list[Any]:
  """Lists of several batches as one."""
  return [value for record in records for value in record[key]]


def measured(
  records: Sequence[_study.Record], ks: Sequence[int]
) -> dict[str, list[float]]:
  """Values of each task: means over its samples, and pass@k if they ran."""
  found = {
    name: [float(np.mean(row)) for row in joined(records, name)]
    for name in ("exact", "similarity")
  }
  found["ended"] = [
    float(np.mean([reason == "end" for reason in row]))
    for row in joined(records, "reasons")
  ]
  if "passed" in records[0]:
    rows = joined(records, "passed")
    for k in ks:
      if k <= min(map(len, rows)):
        found[f"pass@{k}"] = [
          _estimates.pass_at_k(len(row), sum(row), k) for row in rows
        ]
  return found


def by_cut(
  values: Sequence[float],
  base: Sequence[float] | None,
  problems: Sequence[str],
  places: Mapping[str, Sequence[int]],
  sign: int,
) -> Table:
  """Means by cut, and how much better the byte level is, task by task.

  Args:
    values: of each task.
    base: the byte level's; None where there is nothing to compare.
    problems: the program that each task comes from.
    places: see `places_of`; a cut without tasks is left out.
    sign: 1 where more is better, else -1.
  """
  found = {}
  for cut, own in places.items():
    if not own:
      continue
    names = [problems[k] for k in own]
    found[cut] = _estimates.grouped([values[k] for k in own], names)
    if base is not None:
      gains = [sign * (base[k] - values[k]) for k in own]
      found[cut]["byte_is_better_by"] = _estimates.grouped(gains, names)
  return found


def speed(records: Sequence[_study.Record]) -> dict[str, float | None]:
  """Model calls a byte, bytes a second, and seconds a middle.

  The last two are of drawing alone, prompts read, side by side in a batch, and
  of the batches for which nothing was compiled; None where there is none.
  """

  def total(name, own):
    return sum(sum(row) for record in own for row in record[name])

  timed = [record for record in records if record["seconds"] is not None]
  seconds = sum(record["seconds"] for record in timed)
  middles = sum(len(row) for record in timed for row in record["bytes"])
  return {
    "calls_per_byte": total("calls", records) / max(total("bytes", records), 1),
    "bytes_per_s": total("bytes", timed) / seconds if timed else None,
    "seconds_per_middle": seconds / middles if timed else None,
  }


def report(summary: _study.Summary) -> str:
  """Tables: a line for each way."""
  lines = []
  for kind, found in summary["kinds"].items():
    for order, told in found["orders"].items():
      lines.append(
        f"{kind}, {order}: {found['tasks']} tasks, the middle begins inside a"
        f" token in {found['inside']} (95 % intervals; in brackets by how much"
        " the byte level is better)"
      )
      lines += _lines("nats of the middle", told["nats"], 1)
      for setting, rows in told["settings"].items():
        for name, ways in rows["measures"].items():
          lines += _lines(f"{setting} {name}, %", ways, 100)
        for way, pace in rows["speed"].items():
          start = f"  {setting:20} {way:10}"
          lines.append(
            f"{start}{pace['calls_per_byte']:.2f} calls a byte"
            + (
              f", {pace['bytes_per_s']:.0f} bytes/s"
              if pace["bytes_per_s"]
              else ""
            )
          )
  return "\n".join(lines)


def _lines(name: str, ways: Table, scale: float) -> list[str]:
  """A line for each way: means by cut."""

  def words(value: Mapping[str, float]) -> str:
    return (
      f"{scale * value['mean']:.1f} ± {INTERVAL * scale * value['error']:.1f}"
    )

  found = []
  for way, cuts in ways.items():
    parts = []
    for cut, value in cuts.items():
      gain = value.get("byte_is_better_by")
      parts.append(
        f"{cut} {words(value)}" + (f" ({words(gain)})" if gain else "")
      )
    found.append(f"  {name:20} {way:10}" + "; ".join(parts))
  return found


def draw(summary: _study.Summary) -> dict[str, Any]:
  """Bars of each kind and setting, and of what true middles cost more than
  byte by byte.
  """
  figures = {}
  for kind, found in summary["kinds"].items():
    orders = found["orders"]
    title = f"{summary['model']}, {kind}"
    over = {
      order: {
        way: {cut: value["byte_is_better_by"] for cut, value in cuts.items()}
        for way, cuts in told["nats"].items()
        if way != "byte"
      }
      for order, told in orders.items()
    }
    panels = {"nats over the byte level": (over, 1)}
    figures[f"{kind}-nats"] = _bars(panels, f"{title}: true middles")
    for setting, rows in next(iter(orders.values()))["settings"].items():
      panels = {
        f"{name}, %": (
          {
            order: told["settings"][setting]["measures"][name]
            for order, told in orders.items()
          },
          100,
        )
        for name in rows["measures"]
        if name != "ended"
      }
      figures[f"{kind}-{setting}"] = _bars(panels, f"{title}, {setting}")
  return figures


def _bars(panels: Mapping[str, tuple[Table, float]], title: str) -> Any:
  """A row of panels for each cut; in a panel, the ways of each order.

  Args:
    panels: by what they show: values by order, way and cut, and their scale.
    title: of the figure.
  """
  plt = _plots.pyplot()
  cuts = [cut for cut in ("inside", "boundary") if _has(panels, cut)]
  figure, axes = plt.subplots(
    len(cuts),
    len(panels),
    figsize=(3.4 * len(panels) + 1, 2.3 * len(cuts) + 0.8),
    layout="constrained",
    sharey="col",
    squeeze=False,
  )
  handles = {}
  for axis_row, cut in zip(axes, cuts, strict=True):
    for axis, (name, (orders, scale)) in zip(
      axis_row, panels.items(), strict=True
    ):
      at, ticks = 0, []
      for ways in orders.values():
        ticks.append(at + (len(ways) - 1) / 2)
        for way, values in ways.items():
          handles[way] = axis.bar(
            at,
            scale * values[cut]["mean"],
            0.9,
            yerr=INTERVAL * scale * values[cut]["error"],
            color=COLORS[way],
            hatch=HATCHES[way],
            edgecolor="white",
            capsize=2,
            error_kw={"linewidth": 0.8},
          )
          at += 1
        at += 1
      axis.set_xticks(ticks, list(orders))
      axis.axhline(0, color="black", linewidth=0.8)
      axis.set_ylabel(f"{name} (95 %)", fontsize=8)
      axis.set_title(CUTS[cut], fontsize=8)
  figure.legend(
    list(handles.values()),
    list(handles),
    frameon=False,
    ncols=len(handles),
    loc="outside lower center",
  )
  figure.suptitle(title, fontsize=10)
  return figure


def _has(panels: Mapping[str, tuple[Table, float]], cut: str) -> bool:
  return all(
    cut in values
    for orders, _ in panels.values()
    for ways in orders.values()
    for values in ways.values()
  )
