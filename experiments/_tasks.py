"""Host: benchmark data as contexts and what may follow them.

Files are as they are published (`.gz` and `.bz2` too); none is part of this
repository. A line that is not as it should be is named by file and line.
"""

import bz2
import dataclasses
import gzip
import itertools
import json
import lzma
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from byteprob.errors import ByteprobError


@dataclasses.dataclass(frozen=True)
class Item:
  """A context and what may follow it.

  Attributes:
    context: what comes before.
    choices: what may follow; one alone is to be predicted.
    answer: which of them does.
  """

  context: str
  choices: tuple[str, ...]
  answer: int = 0


def lines(path: str | pathlib.Path) -> Iterator[tuple[str, str]]:
  """The lines of a text file, each after `FILE:NUMBER`.

  Raises:
    ByteprobError: the file is broken, or not UTF-8.
    OSError: it cannot be read.
  """
  path = pathlib.Path(path)
  opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
  with opened.get(path.suffix, open)(path, "rb") as file:
    number = 0
    try:
      for number, line in enumerate(file, 1):
        text = line.decode("utf-8").rstrip("\r\n")
        yield f"{path}:{number}", text
    except UnicodeDecodeError as error:
      raise ByteprobError(f"{path}:{number}: this is not UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
      raise ByteprobError(
        f"{path}: broken after line {number}: {error}"
      ) from error


def records(
  path: str | pathlib.Path, *needed: str
) -> Iterator[tuple[str, Any]]:
  """The objects of a `.jsonl` file, each after `FILE:NUMBER`.

  Args:
    path: the file.
    *needed: what each must have.

  Raises:
    ByteprobError: a line is no object, or lacks something.
  """
  for where, line in lines(path):
    if not line.strip():
      continue
    try:
      found = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ByteprobError(f"{where}: this is no JSON: {error}") from error
    missing = (
      [key for key in needed if key not in found]
      if isinstance(found, dict)
      else ["{...}"]
    )
    if missing:
      raise ByteprobError(f"{where}: {missing[0]!r} is missing")
    yield where, found


def text_of(where: str, record: dict[str, Any], key: str) -> str:
  """A string of a record.

  Raises:
    ByteprobError: it is none.
  """
  if not isinstance(record[key], str):
    raise ByteprobError(f"{where}: {key!r} must be a string")
  return record[key]


def piqa(path: str, labels: str) -> Iterator[Item]:
  """Two solutions of a goal (`valid.jsonl` and `valid-labels.lst`)."""
  found = records(path, "goal", "sol1", "sol2")
  for one, label in itertools.zip_longest(found, lines(labels)):
    if one is None or label is None:
      raise ByteprobError(f"{path} and {labels} are not equally long")
    (where, record), (place, answer) = one, label
    if answer.strip() not in ("0", "1"):
      raise ByteprobError(f"{place}: a label is 0 or 1, not {answer!r}")
    goal, *solutions = (
      text_of(where, record, key) for key in ("goal", "sol1", "sol2")
    )
    yield Item(
      f"Question: {goal}\nAnswer:",
      tuple(f" {solution}" for solution in solutions),
      int(answer),
    )


def hellaswag(path: str) -> Iterator[Item]:
  """Four endings of a context: six lines an item, or `.jsonl` as published."""
  if ".jsonl" in pathlib.Path(path).name:
    for where, record in records(path, "ctx", "endings", "label"):
      endings, label = record["endings"], str(record["label"])
      if not (
        isinstance(endings, list)
        and all(isinstance(ending, str) for ending in endings)
        and label.isdecimal()
        and int(label) < len(endings)
      ):
        raise ByteprobError(f"{where}: endings and label do not fit")
      context = text_of(where, record, "ctx")
      yield Item(context, tuple(f" {e}" for e in endings), int(label))
    return
  rest = lines(path)
  while part := list(itertools.islice(rest, 6)):
    where = part[0][0]
    if len(part) < 6:
      raise ByteprobError(f"{where}: the last item has {len(part)} of 6 lines")
    context, label, *endings = (text for _, text in part)
    if label not in ("0", "1", "2", "3"):
      raise ByteprobError(f"{part[1][0]}: a label is 0 to 3, not {label!r}")
    yield Item(context, tuple(f" {ending}" for ending in endings), int(label))


def gsm8k(path: str) -> Iterator[Item]:
  """A problem, and its solution in words."""
  for where, record in records(path, "question", "answer"):
    question, answer = (
      text_of(where, record, key) for key in ("question", "answer")
    )
    yield Item(f"Question: {question}\nAnswer:", (f" {answer}",))


def mbpp(path: str) -> Iterator[Item]:
  """Description of a function, and its code."""
  for where, record in records(path, "text", "code"):
    text, code = (text_of(where, record, key) for key in ("text", "code"))
    code = code.replace("\r\n", "\n")
    yield Item(f'"""\n{text}\n"""\n', (code,))


def last_word(path: str) -> Iterator[Item]:
  """The last word of each longer line of a text, as in LAMBADA."""
  for _, line in lines(path):
    found = re.fullmatch(r"(.{150,600}?)( \w{3,})[\s.!?\"']*", line.strip())
    if found:
      yield Item(found[1], (found[2],))


TASKS: dict[str, Callable[..., Iterator[Item]]] = {
  "piqa": piqa,
  "hellaswag": hellaswag,
  "gsm8k": gsm8k,
  "mbpp": mbpp,
  "last_word": last_word,
}


def read(task: str, files: str, most: int) -> list[Item]:
  """Items of a task, evenly spread over its data.

  Args:
    task: one of `TASKS`.
    files: its file, or files with `+` between.
    most: items at most; 0 for all.

  Raises:
    ByteprobError: there is no such task, or its data is broken or empty.
  """
  if task not in TASKS:
    raise ByteprobError(
      f"there is no task {task!r}: name one of {', '.join(TASKS)}"
    )
  try:
    found = list(TASKS[task](*files.split("+")))
  except TypeError:
    raise ByteprobError(
      f"{task} takes another number of files than {files!r}"
    ) from None
  if not found:
    raise ByteprobError(f"{files} has nothing for {task}")
  if most and len(found) > most:
    found = [found[k * len(found) // most] for k in range(most)]
  return found
