"""Host: means, and how far they may be off."""

import math
from collections.abc import Sequence


def ratio(
  sums: Sequence[float], sizes: Sequence[float]
) -> tuple[float, float | None]:
  """A total over a total, and its standard error; None for one group alone.

  Args:
    sums: of each group of values; those within a group depend on each other.
    sizes: what they are divided by, of each group.
  """
  size, count = sum(sizes), len(sums)
  found = sum(sums) / size
  if count < 2:
    return found, None
  off = [each - found * own for each, own in zip(sums, sizes, strict=True)]
  spread = sum(x * x for x in off) * count / (count - 1)
  return found, math.sqrt(spread) / size
