"""Host: programs with a span cut out, to be filled in.

Files are as openai/human-eval-infilling publishes them (`.jsonl`, `.gz` too):
a line has a `prompt`, a `suffix`, what stood between them (its
`canonical_solution`), and a `test` of the whole. None is part of this
repository, but for a few functions to try things out on.
"""

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from byteprob.errors import ByteprobError
from experiments import _tasks, _texts

SAMPLE = "sample"
"""The name of the functions below."""

_KEYS = (
  "task_id",
  "entry_point",
  "prompt",
  "suffix",
  "canonical_solution",
  "test",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A program with a span cut out.

  Attributes:
    name: `KIND/PROBLEM/...`, such as `SingleLineInfilling/HumanEval/0/L5`.
    prefix, middle, suffix: the program.
    test: defines `check`, which raises an error if a function is not right.
    entry: the name of the function.
  """

  name: str
  prefix: str
  middle: str
  suffix: str
  test: str
  entry: str

  @property
  def kind(self) -> str:
    """How the spans of its benchmark were cut."""
    return self.name.split("/")[0]

  @property
  def problem(self) -> str:
    """Part of the name that all spans of its program share."""
    return "/".join(self.name.split("/")[1:3])

  def program(self, middle: str) -> str:
    """A program that runs to its end if a middle is right."""
    text = f"{self.prefix}{middle}{self.suffix}"
    return f"{text}\n{self.test}\ncheck({self.entry})\n"


def read(source: str, most: int, longest: int = 0) -> list[Task]:
  """Tasks, evenly spread over a benchmark.

  Args:
    source: a file; `hub:NAME:CONFIG:SPLIT`, read with the `datasets` package
      (`hub:loubnabnl/humaneval_infilling:HumanEval-RandomSpanInfilling:test`);
      or `sample`.
    most: tasks at most; 0 for all.
    longest: bytes that a middle may have; 0 for any number.

  Raises:
    ByteprobError: a line is not of the format, and is named; or there is
      none, or none so short.
    OSError: the file cannot be read.
  """
  if source == SAMPLE:
    found = sample()
  else:
    rows = (
      ((f"{source}, row {k}", row) for k, row in enumerate(_hub(source)))
      if source.startswith("hub:")
      else _tasks.records(source, *_KEYS)
    )
    found = [_task(where, row) for where, row in rows]
  if not found:
    raise ByteprobError(f"{source} has no tasks")
  if longest:
    found = [task for task in found if len(task.middle.encode()) <= longest]
    if not found:
      raise ByteprobError(
        f"{source} has no middles of {longest} bytes or fewer"
      )
  if most and len(found) > most:
    found = [found[k * len(found) // most] for k in range(most)]
  return found


def _task(where: str, row) -> Task:
  name, entry, prefix, suffix, middle, test = (
    _tasks.text_of(where, row, key) for key in _KEYS
  )
  if not re.fullmatch(r"\w+(/[\w.-]+)+", name):
    raise ByteprobError(f"{where}: the task_id {name!r} is not KIND/PROBLEM")
  return Task(
    name=name,
    prefix=prefix,
    middle=middle,
    suffix=suffix,
    test=test,
    entry=entry,
  )


def _hub(source: str) -> Iterable:
  try:
    _, name, variant, split = source.split(":")
  except ValueError:
    raise ByteprobError(
      f"{source!r} is not of the form hub:NAME:CONFIG:SPLIT"
    ) from None
  return _texts.hub_rows(name, variant, split)


_FUNCTIONS = (
  (
    "largest",
    "def largest(numbers):\n"
    '  """The largest of some numbers."""\n'
    "  found = numbers[0]\n"
    "  for number in numbers[1:]:\n"
    "    if number > found:\n"
    "      found = number\n"
    "  return found\n",
    "assert candidate([3, 9, 2]) == 9 and candidate([-4, -2]) == -2",
  ),
  (
    "vowels",
    "def vowels(text):\n"
    '  """How many vowels a text has."""\n'
    "  count = 0\n"
    "  for letter in text.lower():\n"
    "    if letter in 'aeiou':\n"
    "      count += 1\n"
    "  return count\n",
    "assert candidate('Banana') == 3 and candidate('why') == 0",
  ),
  (
    "invert",
    "def invert(table):\n"
    '  """A dictionary from values to keys."""\n'
    "  result = {}\n"
    "  for key, value in table.items():\n"
    "    result[value] = key\n"
    "  return result\n",
    "assert candidate({'a': 1, 'b': 2}) == {1: 'a', 2: 'b'}",
  ),
)


def sample() -> list[Task]:
  """Two random spans of each of three functions, always the same."""
  rng = np.random.default_rng(0)
  found = []
  for name, text, test in _FUNCTIONS:
    body = text.index('"""\n') + 4
    for number in range(2):
      low, high = sorted(int(k) for k in rng.integers(body, len(text), 2))
      found.append(
        Task(
          name=f"Sample/{name}/0/{number}",
          prefix=text[:low],
          middle=text[low:high],
          suffix=text[high:],
          test=f"def check(candidate):\n  {test}\n",
          entry=name,
        )
      )
  return found
