"""Host: long texts to measure on, from what Python itself brings."""

import inspect
import json.decoder

from byteprob.errors import ByteprobError

NAMES = ("english", "code", "repetitive")


def source(name: str) -> bytes:
  """A long ASCII text.

  `english` is Python's help topics, `code` modules of its library,
  `repetitive` lines of a table.

  Raises:
    ByteprobError: there is no such text.
  """
  if name == "english":
    from pydoc_data import topics

    text = "\n".join(topics.topics[key] for key in sorted(topics.topics))
  elif name == "code":
    import argparse

    text = inspect.getsource(json.decoder) + inspect.getsource(argparse)
  elif name == "repetitive":
    colours = ("red", "green", "blue", "yellow")
    text = "".join(
      f'{{"id": {k}, "colour": "{colours[k % 4]}", "size": 10}},\n'
      for k in range(1000)
    )
  else:
    raise ByteprobError(
      f"there is no text {name!r}: name one of {', '.join(NAMES)}"
    )
  return text.encode("ascii", "ignore")
