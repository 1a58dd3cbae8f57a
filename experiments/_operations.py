"""Host: operations of a compiled program, counted in its text.

XLA makes many small operations into one (a fusion): it is one, as is whatever
else is run: a product, a copy, a sort. What only names values is none.
"""

import collections
import re

_NONE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "opt-barrier",
  "partition-id",
  "replica-id",
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_TRIPS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')
_SCOPE = re.compile(r"\bloop:([\w.]+)")

OUTSIDE = ""
"""The place of what is in no loop."""

Computations = dict[str, list[tuple[str, str]]]


def scope(place: str) -> str:
  """The name scope that tells of a loop's place in a program's text."""
  return f"loop:{place}"


def count(text: str) -> collections.Counter[str]:
  """Operations that each loop runs in one step, by the loop's place.

  A loop without a place counts for the one around it: as often as it is known
  to run, or once. Of branches the longest counts.

  Args:
    text: the optimized program's, in XLA's form, its loops in scopes.
  """
  computations, entry = _read(text)
  found: collections.Counter[str] = collections.Counter()
  _add(computations, entry, OUTSIDE, 1, found)
  return found


def _read(text: str) -> tuple[Computations, str]:
  found: Computations = {}
  entry, current = "", None
  for line in text.splitlines():
    if begins := _COMPUTATION.match(line):
      current = found.setdefault(begins[2], [])
      entry = begins[2] if begins[1] else entry
    elif line.startswith("}"):
      current = None
    elif current is not None and " = " in line:
      operation = _OPERATION.search(line.partition(" = ")[2].join("  "))
      if operation:
        current.append((operation[1], line))
  return found, entry


def _add(computations, name, place, times, found) -> None:
  for operation, line in computations[name]:
    if operation == "while":
      places = _SCOPE.findall(line)
      inner = places[-1] if places else place
      trips = _TRIPS.search(line)
      again = 1
      if inner == place:
        again = times * (int(trips[1]) if trips else 1)
      for role in ("condition", "body"):
        _add(computations, _called(line, role), inner, again, found)
    elif operation == "conditional":
      branches = []
      for branch in _branches(line):
        branches.append(collections.Counter())
        _add(computations, branch, place, times, branches[-1])
      found.update(max(branches, key=lambda one: sum(one.values())))
    elif operation == "call":
      _add(computations, _called(line, "to_apply"), place, times, found)
    elif operation not in _NONE:
      found[place] += times


def _called(line: str, role: str) -> str:
  return re.search(rf"\b{role}=%?([\w.\-]+)", line)[1]


def _branches(line: str) -> list[str]:
  if several := re.search(r"branch_computations=\{([^}]*)\}", line):
    return [name.strip().lstrip("%") for name in several[1].split(",")]
  return [_called(line, f"{which}_computation") for which in ("true", "false")]
