"""Host: hash tables find what they hold, and nothing else."""

import dataclasses
import pathlib

import downloads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import make_bench

from byteprob import hub, tokenization
from byteprob.rules import bpe as rule
from byteprob.rules import common
from byteprob.tokenization import (
  bpe,
  compile,
  cuckoo,
  load_tables,
  read_spec,
  spell_all,
)
from byteprob.tokenization.tables import Tables

ZOO = ["gpt2", "gemma", "every_byte", "ranked_splits_2", "wordpiece"]
REAL = [
  "stdlib-bpe",
  pytest.param("smollm2-135m", marks=pytest.mark.download),
]


def tables_of(name: str) -> list[Tables]:
  """Tables of the zoo, as they are and padded; or those of a real one."""
  if name in ZOO:
    one = make_bench(name)
    return [one.tables, one.padded]
  return [jax.tree.map(jnp.asarray, load_tables(path_of(name)))]


def path_of(name: str) -> pathlib.Path:
  """Where a real tokenizer is."""
  return hub.resolve(name) if name == "stdlib-bpe" else downloads.model(name)


@pytest.mark.parametrize("count", [0, 1, 56, 57, 5000, 2**16])
def test_every_key_has_one_slot_of_its_three(count):
  rng = np.random.default_rng(count)
  left = rng.integers(0, 2**20, count, dtype=np.int32)
  right = np.arange(count, dtype=np.int32)
  table = cuckoo.place(left, right)
  assert len(table) & (len(table) - 1) == 0
  assert len(table) <= max(64, 2.3 * count)
  assert sorted(table[table != cuckoo.NONE]) == list(range(count))
  at = np.flatnonzero(table != cuckoo.NONE)
  key = table[at]
  slot = cuckoo.slots(left[key], right[key], len(table))
  assert (slot == at[:, None]).any(1).all()
  np.testing.assert_array_equal(
    slot, cuckoo.slots(jnp.array(left[key]), jnp.array(right[key]), len(table))
  )
  # Twice as many slots that are the same twice do the same.
  wide = cuckoo.slots(left[key], right[key], 2 * len(table))
  np.testing.assert_array_equal(wide % len(table), slot)


def test_a_table_grows_where_keys_do_not_fit():
  # These three slots are all that a key has, and there are four keys.
  number = np.arange(2**16, dtype=np.int32)
  slot = np.sort(cuckoo.slots(number, number, 64), axis=1)
  code = slot @ np.array([64**2, 64, 1])
  crowd = number[code == np.bincount(code).argmax()][:4]
  assert len(crowd) == 4
  table = cuckoo.place(crowd, crowd)
  assert len(table) > 64
  assert sorted(table[table >= 0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [*ZOO, *REAL])
def test_every_node_has_the_children_that_its_tokens_say(name):
  for tables in tables_of(name):
    wanted, numbers = {}, {b"": 0}
    spelled = spell_all(tables)
    for size in range(1, tables.longest + 1):
      # Nodes are numbered by length, then by their bytes.
      for text in sorted({t[:size] for t in spelled if len(t) >= size}):
        numbers[text] = len(numbers)
        wanted[numbers[text[:-1]], text[-1]] = numbers[text]
    count = len(numbers)
    if name not in ZOO:
      assert count == len(tables.node_byte) > 7000
    every = np.full((1 + -(-count // 512) * 512, 256), -1)
    parent, byte = np.array(list(wanted)).T
    every[parent, byte] = list(wanted.values())
    child = jax.jit(common.child)
    byte = np.arange(256, dtype=np.int32)[None]
    for first in range(0, count, 512):
      at = np.arange(first, first + 512, dtype=np.int32)[:, None]
      np.testing.assert_array_equal(
        child(tables, at, byte), every[first : first + 512]
      )
    assert (child(tables, np.full_like(at, -1), byte) == -1).all()


@dataclasses.dataclass(frozen=True)
class Merging:
  """A tokenizer's merges as the host has them; see `bpe`."""

  tree: bpe.Derivations
  merges: bpe.Merges
  runs: bpe.Runs


def merging_of(name: str) -> Merging:
  """The merges of a tokenizer of the zoo or of a real one."""
  if name in ZOO:
    spec = make_bench(name).spec
  else:
    spec = read_spec(tokenization.tokenizer_file(path_of(name)))
  lengths = np.array([max(1, len(token or b"")) for token in spec.tokens])
  tree = bpe.derive(spec.merges, lengths, compile._atoms(spec))
  return Merging(tree, spec.merges, bpe.compile_runs(tree, spec.merges))


BPE = ["gpt2", "gemma", "every_byte", "ranked_splits_2", *REAL]


@pytest.mark.parametrize("name", BPE)
def test_every_merge_is_found_and_no_other_pair(name):
  one = merging_of(name)
  for tables in tables_of(name):
    ids = np.asarray(tables.token_id)
    order = {int(id_): at for at, id_ in reversed(list(enumerate(ids)))}
    runs, span = {}, {}
    for run, merge in enumerate(one.runs.merge):
      a, b = int(one.merges.left[merge]), int(one.merges.right[merge])
      runs.setdefault((order[a], order[b]), run)
      first, _ = span.setdefault(order[a], (run, run))
      span[order[a]] = first, run + 1
    assert len(runs) > (3 if name in ZOO else 3000)

    def found(pairs, tables=tables, span=span):
      left, right = np.array(pairs, np.int32).T
      low, high = np.array([span[a] for a in left.tolist()]).T
      each = jax.jit(rule._merges)(tables.bpe, left, right)
      answer = np.full(len(pairs), -1)
      for run, other, start in each:
        right_one = (low <= run) & (run < high) & (other == right)
        begin = np.asarray(tables.bpe.start)[run]
        np.testing.assert_array_equal(start[right_one], begin[right_one])
        answer = np.where(right_one, run, answer)
      return answer.tolist()

    assert found(list(runs)) == list(runs.values())
    rng = np.random.default_rng(0)
    left, right = np.array(list(runs)).T
    others = np.stack([rng.choice(left, 50000), rng.choice(right, 50000)], 1)
    others = list(map(tuple, others.tolist()))
    assert found(others) == [runs.get(pair, -1) for pair in others]


@pytest.mark.parametrize("name", BPE)
def test_pairs_are_allowed_that_the_host_allows(name):
  one = merging_of(name)
  law = bpe.PairLaw(one.tree, one.merges)
  rng = np.random.default_rng(0)
  for tables in tables_of(name):
    ids = np.asarray(tables.token_id)
    order = {int(id_): at for at, id_ in reversed(list(enumerate(ids)))}
    usable = [id_ for id_ in order if one.tree.reachable[id_]]
    left, right = rng.choice(usable, (2, 20000))
    merge = one.runs.merge
    left = np.append(left, one.merges.left[merge])
    right = np.append(right, one.merges.right[merge])
    wanted = law.allows(left, right)
    assert 0 < wanted.sum() < len(wanted)
    place = np.vectorize(order.get)
    allowed = jax.jit(rule.pair_allowed)
    left, right = place(left).astype(np.int32), place(right).astype(np.int32)
    np.testing.assert_array_equal(allowed(tables.bpe, left, right), wanted)
    assert allowed(tables.bpe, np.full_like(right, -1), right).all()
