"""Host: hash tables of pairs of numbers; `slots` is for the device too.

A key may stand in three slots, so that three look-ups, none of which waits for
another, find it or tell that it is not there. A table of `S` slots, twice in a
row, is one of `2 S` slots that finds the same.
"""

import numpy as np

NONE = -1
"""Value of an empty slot."""

_FULL = 0.88
"""Share of the slots that are filled at most; past 0.91 there is no way."""

_LEAST = 64
"""Slots of the smallest table; a power of two, as all sizes are."""

_ROUNDS = 1000
"""Some keys that are still without a slot after these never find one."""

_MIX = np.array([0x2C1B3C6D, 0x297A2D39, 0x4CF5AD43], np.uint32)

WAYS = len(_MIX)
"""Slots that a key may stand in."""


def slots(left, right, size: int):
  """The slots that a key may stand in, `uint32[..., WAYS]`.

  Args:
    left, right: the key, `int32` arrays of NumPy or JAX.
    size: slots of the table, a power of two.
  """
  key = left.astype(np.uint32) * np.uint32(0x9E3779B1)
  key = key ^ (right.astype(np.uint32) * np.uint32(0x85EBCA77))
  key = key ^ (key >> np.uint32(15))
  key = key[..., None] * _MIX.reshape(*[1] * key.ndim, WAYS)
  key = key ^ (key >> np.uint32(16))
  return key & np.uint32(size - 1)


def table(left: np.ndarray, right: np.ndarray, *parts) -> np.ndarray:
  """The hash table of rows.

  Args:
    left, right: `int32[N]` different keys.
    *parts: `int32[N]` each, what is kept of a key.

  Returns:
    `int32[S, ...]` the parts, -1 in empty slots.
  """
  row = np.full((len(left) + 1, len(parts)), NONE, np.int32)
  row[:-1] = np.stack(parts, axis=1)
  return row[place(left, right)]


def place(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Puts keys into slots.

  Args:
    left, right: `int32[N]` different keys.

  Returns:
    Index of the key in each slot, -1 for none; as many slots as it takes.
  """
  size = _LEAST
  while size * _FULL < len(left):
    size *= 2
  while (found := _try(slots(left, right, size), size)) is None:
    size *= 2
  return found


def _try(options, size):
  """`place` into so many slots, None if there is no way."""
  rng = np.random.default_rng(0)
  found = np.full(size, NONE, np.int32)
  homeless = np.arange(len(options), dtype=np.int32)
  for way in range(WAYS):
    goal = options[homeless, way]
    free = found[goal] == NONE
    found[goal[free]] = homeless[free]
    homeless = homeless[found[goal] != homeless]
  for _ in range(_ROUNDS):
    if not len(homeless):
      return found
    able = options[homeless]
    free = found[able] == NONE
    any_one = rng.integers(WAYS, size=len(able))
    pick = np.where(free.any(1), free.argmax(1), any_one)
    goal = able[np.arange(len(able)), pick]
    # Who finds all of them taken drives somebody out.
    before = found[goal]
    found[goal] = homeless
    won = found[goal] == homeless
    out = before[won]
    homeless = np.concatenate([homeless[~won], out[out != NONE]])
  return None
