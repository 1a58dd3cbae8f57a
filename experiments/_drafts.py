"""Host: where drafts come from, by the names that flags give."""

from collections.abc import Callable
from typing import Any

from byteprob import ByteLM


def draft_of(name: str, load: Callable[[str], ByteLM]) -> dict[str, Any]:
  """What `ByteLM.sample` is told of a source of drafts.

  Args:
    name: "none", "rows", "look_up", or a model's name.
    load: loads a model.
  """
  if name == "none":
    return {"ahead": 0}
  return {"draft": name if name in ("rows", "look_up") else load(name)}
