"""Host: typed look-ups in metadata that may say anything, faults collected."""

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from byteprob import errors

T = TypeVar("T")

_REQUIRED: Any = object()
_MOST_SHOWN = 30
# Larger than anything real, small enough for int32 and for products of two.
_MOST = 2**31 - 1


def fail(where: object, problems: Sequence[str]) -> None:
  """Raises one `CheckpointError` with all `problems`; none, no error."""
  if not problems:
    return
  shown = list(problems[:_MOST_SHOWN])
  if len(problems) > len(shown):
    shown.append(f"and {len(problems) - len(shown)} more")
  if len(shown) == 1:
    raise errors.CheckpointError(f"{where}: {shown[0]}")
  lines = "".join(f"\n  - {line}" for line in shown)
  raise errors.CheckpointError(f"{where}: {len(problems)} problems:{lines}")


def build(make: Callable[[], T], where: object, problems: list[str]) -> T:
  """Calls `make` and returns its result; raises if there were problems.

  Raises:
    CheckpointError: `problems` has entries, or `make` raised `ValueError` or
      `ArithmeticError`, for numbers that do not go together. (A look-up that
      failed returned a stand-in, so the result of `make` would be wrong.)
  """
  try:
    result = make()
  except (ValueError, ArithmeticError) as error:
    problems.append(str(error))
    fail(where, problems)
    raise
  fail(where, problems)
  return result


class Fields:
  """Reads keys of a mapping by type, and remembers which were read.

  A fault is noted in `problems` and the look-up returns something harmless,
  so that one pass finds all faults; call `fail` before using the results.

  Attributes:
    problems: one sentence for each fault found so far.
  """

  def __init__(
    self,
    values: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    problems: list[str] | None = None,
  ):
    """Reads `values`, and `defaults` for keys that `values` lacks."""
    self.problems = [] if problems is None else problems
    self._values = values
    self._defaults = defaults or {}
    self._read: set[str] = set()

  def get(self, key: str) -> Any:
    """The value as it is; `None` if it is null or in neither mapping."""
    self._read.add(key)
    if key in self._values:
      return self._values[key]
    return self._defaults.get(key)

  def has(self, key: str) -> bool:
    """Whether `key` is there and not null."""
    return self.get(key) is not None

  def integer(self, key: str, default: T = _REQUIRED, low: int = 1) -> int | T:
    """An integer of at least `low`."""
    value = self.get(key)
    if value is None:
      return self._absent(key, default, low)
    if type(value) is int and low <= value <= _MOST:
      return value
    return self._wrong(key, value, f"an integer in [{low}, {_MOST}]", low)

  def number(self, key: str, default: T = _REQUIRED) -> float | T:
    """A finite number above 0."""
    value = self.get(key)
    if value is None:
      return self._absent(key, default, 1.0)
    if type(value) in (int, float) and 0 < value < float("inf"):
      return float(value)
    return self._wrong(key, value, "a finite number above 0", 1.0)

  def flag(self, key: str, default: bool = _REQUIRED) -> bool:
    """A boolean."""
    value = self.get(key)
    if value is None:
      return self._absent(key, default, False)
    if isinstance(value, bool):
      return value
    return self._wrong(key, value, "true or false", False)

  def choice(
    self, key: str, table: Mapping[str, T], default: str = _REQUIRED
  ) -> T:
    """Entry of `table` for the string at a key."""
    first = next(iter(table.values()))
    value = self.get(key)
    if value is None:
      value = self._absent(key, default, next(iter(table)))
    if isinstance(value, str) and value in table:
      return table[value]
    return self._wrong(key, value, f"one of {', '.join(table)}", first)

  def unread(self) -> Iterable[tuple[str, Any]]:
    """The keys of `values` that nobody asked for, with their values."""
    return [(k, v) for k, v in self._values.items() if k not in self._read]

  def is_default(self, key: str, value: Any) -> bool:
    """Whether `value` is the default that was given for `key`."""
    return key in self._defaults and self._defaults[key] == value

  def _absent(self, key, default, stand_in):
    if default is _REQUIRED:
      self.problems.append(f"{key} is missing")
      return stand_in
    return default

  def _wrong(self, key, value, want, stand_in):
    self.problems.append(f"{key} is {reprlib.repr(value)}, want {want}")
    return stand_in
