"""Host: means, and how far they may be off."""

import math
from collections.abc import Mapping, Sequence


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


def grouped(
  values: Sequence[float], groups: Sequence[str]
) -> Mapping[str, float]:
  """A mean and its standard error, where values of a group depend on another.

  Args:
    values: at least one.
    groups: the name of each one's group.
  """
  sums: dict[str, list[float]] = {}
  for value, name in zip(values, groups, strict=True):
    sums.setdefault(name, []).append(value)
  mean, error = ratio(
    [math.fsum(own) for own in sums.values()],
    [float(len(own)) for own in sums.values()],
  )
  return {"mean": mean, "error": error or 0.0, "count": len(values)}


def pass_at_k(count: int, passed: int, k: int) -> float:
  """The chance that one of `k` samples passes; unbiased.

  It is that of `k` drawn without replacement from those that are there (Chen
  et al., "Evaluating Large Language Models Trained on Code", 2021).

  Args:
    count: how many samples there are, at least `k`.
    passed: how many of them pass.
    k: see above.
  """
  if not 0 < k <= count:
    raise ValueError(f"pass@{k} takes {k} samples, not {count}")
  return 1.0 - math.comb(count - passed, k) / math.comb(count, k)
