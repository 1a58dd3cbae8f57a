"""Host: tables padded to a few sizes, so that tokenizers share compilations.

A compiled function is compiled for the sizes of a tokenizer's tables. Here
tables get tokens that never stand, states that are never met and runs that
nothing refers to, until those of all small tokenizers are of one size.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from byteprob.tokenization.tables import Tables

SMALL: Mapping[str, int] = {
  "Y": 48, "M": 96, "Q": 96, "K": 32, "R": 40, "G": 48, "F": 96,
  "segments": 6, "spines": 6, "pairs": 64, "children": 512,
  "hypotheses": 5, "longest": 8,
  "T": 192, "E": 128, "runs": 8,
}  # fmt: skip
"""For alphabets of a few characters."""

LARGE = {**SMALL, "Y": 320, "M": 320, "F": 352, "K": 48}
"""For vocabularies with all bytes."""

_TOKENS = ("token_id", "length", "twin")
_TRIE = ("low", "high", "twins", "equal", "node_byte", "first_child")
_RUNS = ("start", "stop")
_OFFSETS = ("segment_of", "spine_of")


def pad(tables: Tables, sizes: Mapping[str, int]) -> Tables:
  """Tables of these sizes that do the same.

  Raises:
    ValueError: they are larger.
  """
  tables = _start_at_zero(tables)
  dead = tables.next.shape[1]
  info = dataclasses.replace(tables.info, key=f"padded to {sizes['Y']}")
  names = {
    **dict.fromkeys(_TOKENS, ("Y", 0)),
    **dict.fromkeys((*_TRIE, "children"), ("M", 0)),
    "kind": ("Y", dead),
    "exact": ("M", -1),
    "cut": ("Q", -1),
    "ends": ("Q", False),
  }
  fields = {
    name: _pad(getattr(tables, name), sizes[axis], fill)
    for name, (axis, fill) in names.items()
  }
  wide = _pad(np.asarray(tables.next).T, sizes["K"], -1).T
  if dead >= sizes["K"]:
    raise ValueError(f"there are {dead} kinds")
  for name in ("hypotheses", "longest"):
    if getattr(tables, name) > sizes[name]:
      raise ValueError(f"{name} is {getattr(tables, name)}")
    fields[name] = sizes[name]
  return dataclasses.replace(
    tables,
    **fields,
    next=_pad(wide, sizes["Q"], -1),
    child=_repeat(tables.child, sizes["children"]),
    bpe=tables.bpe and _pad_bpe(tables.bpe, sizes),
    longest_match=tables.longest_match
    and _pad_longest_match(tables.longest_match, sizes),
    unigram=tables.unigram and _pad_unigram(tables.unigram, sizes),
    info=info,
  )


def _start_at_zero(tables: Tables) -> Tables:
  """The same states, the starts first; a bare one has its own in any case."""
  first = np.array([tables.start, tables.start_bare])
  order = np.append(first, np.setdiff1d(np.arange(len(tables.next)), first))
  rename = np.full(len(tables.next) + 1, -1)
  # A state that is there twice goes by its first place.
  rename[order[::-1]] = np.arange(len(order))[::-1]
  return dataclasses.replace(
    tables,
    next=rename[np.asarray(tables.next)[order]].astype(tables.next.dtype),
    cut=rename[np.asarray(tables.cut)[order]].astype(np.int32),
    ends=np.asarray(tables.ends)[order],
    start=0,
    start_inside=int(rename[tables.start_inside]),
    start_bare=1,
  )


def _pad_bpe(bpe, sizes):
  fields = {}
  axes = {
    **dict.fromkeys(_RUNS, "R"), "segment": "G", "spine": "F"
  }  # fmt: skip
  for name, axis in axes.items():
    fields[name] = _pad(getattr(bpe, name), sizes[axis], 0)
  for name in _OFFSETS:
    last = int(getattr(bpe, name)[-1])
    fields[name] = _pad(getattr(bpe, name), sizes["Y"] + 1, last)
  position = np.asarray(bpe.position)
  spare = np.setdiff1d(np.arange(sizes["Y"]), position)
  fields["position"] = jnp.asarray(
    np.concatenate([position, spare]).astype(np.int32)
  )
  fields["pair"] = _repeat(bpe.pair, sizes["pairs"])
  for name in ("segments", "spines"):
    if getattr(bpe, name) > sizes[name]:
      raise ValueError(f"{name} is {getattr(bpe, name)}")
    fields[name] = sizes[name]
  return dataclasses.replace(bpe, **fields)


def _pad_longest_match(rule, sizes):
  codes = 2 * sizes["M"]
  axes = {
    **dict.fromkeys(("node", "inside", "begin"), (sizes["Y"], 0)),
    "spelled": (sizes["T"], 0),
    "open": (codes, False),
    "link": (codes, -1),
    "run_of": (codes + 1, int(rule.run_of[-1])),
    **dict.fromkeys(("low", "high"), (4 * sizes["R"], 0)),
  }
  return _pad_all(rule, axes, runs=_at_most(rule.runs, sizes["runs"]))


def _pad_unigram(unigram, sizes):
  tokens = dict.fromkeys(("high", "low", "suffix_of"), sizes["Y"])
  entries = ("entry_token", "entry_node", "entry_low")
  axes = {
    **{name: (size, 0) for name, size in tokens.items()},
    "depth": (sizes["M"], 0),
    "suffix": (sizes["T"], -1),
    **dict.fromkeys(entries, (sizes["E"], 0)),
    # Nothing is better by this much.
    "entry_high": (sizes["E"], np.iinfo(np.int32).max),
  }
  return _pad_all(unigram, axes)


def _pad_all(part, axes, **rest):
  fields = {
    name: _pad(getattr(part, name), size, fill)
    for name, (size, fill) in axes.items()
  }
  return dataclasses.replace(part, **fields, **rest)


def _at_most(value: int, limit: int) -> int:
  if value > limit:
    raise ValueError(f"there are {value} and not {limit}")
  return limit


def _repeat(table, size: int):
  """A hash table of more slots."""
  table = np.asarray(table)
  times = size // len(table)
  if times * len(table) != size:
    raise ValueError(f"there are {len(table)} slots and not {size}")
  return jnp.asarray(np.concatenate([table] * times))


def _pad(array, size: int, fill):
  array = np.asarray(array)
  more = size - len(array)
  if more < 0:
    raise ValueError(f"an axis of {len(array)} does not fit into {size}")
  padded = np.full((more, *array.shape[1:]), fill, array.dtype)
  return jnp.asarray(np.concatenate([array, padded]))


def pad_if_small(tables: Tables) -> Tables:
  """Padded tables, or the tables themselves if they are of no shared size."""
  if tables.forms:
    return tables
  for sizes in (SMALL, LARGE):
    try:
      return pad(tables, sizes)
    except ValueError:
      continue
  return tables
