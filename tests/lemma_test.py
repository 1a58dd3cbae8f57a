"""From rows to bytes, against float64 sums over the vocabulary."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import close, make_bench

from byteprob import lemma, numerics, token_tree

NAMES = ["gemma", "gpt2"]


def logsum(values):
  """Log of a sum of exponentials, -inf for none."""
  return np.logaddexp.reduce(np.asarray(values, np.float64), initial=-np.inf)


def random_rows(rng, count, size, spread=20.0):
  """Rows as `lemma.rows` makes them, of any log-probs, a third impossible."""
  token = rng.normal(size=(count, size)).astype(np.float32) * spread
  token[rng.random(token.shape) < 0.3] = -np.inf
  token = np.pad(
    token, ((0, 0), (0, -size % lemma.BLOCK)), constant_values=-np.inf
  )
  return rows_of(token, rng.normal(size=count).astype(np.float32))


def rows_of(token, eos):
  """Rows with these log-probs of tokens, padded to whole blocks."""
  block = sums(token)
  block = np.pad(
    block, ((0, 0), (0, -block.shape[1] % lemma.BLOCK)), constant_values=-np.inf
  )
  return lemma.TokenLogProbs(
    token=jnp.asarray(token),
    block=jnp.asarray(block),
    group=jnp.asarray(sums(block)),
    eos=jnp.asarray(eos),
    total=jnp.zeros(len(token)),
  )


def sums(values):
  """Log of the sum of each `BLOCK` values."""
  blocks = np.split(values, values.shape[1] // lemma.BLOCK, axis=1)
  sums = [[logsum(part) for part in block] for block in blocks]
  return np.array(sums, np.float32).T


@pytest.mark.parametrize("size", [5, 64, 300, 700, 9000])
def test_mass_is_the_sum_over_an_interval(size):
  rng = np.random.default_rng(size)
  rows = random_rows(rng, 3, size)
  edges = {0, 1, 2, size - 1, size, *rng.integers(0, size, 20).tolist()}
  edges |= {
    at
    for at in (63, 64, 65, 127, 128, 129, 512, 4095, 4096, 4097)
    if at <= size
  }
  pairs = [(a, b) for a in edges for b in edges if a <= b]
  row = rng.integers(0, 3, len(pairs))
  low, high = np.array(pairs).T
  found = jax.jit(lemma.interval_logsumexp)(
    rows, *map(jnp.asarray, (row, low, high))
  )
  token = np.asarray(rows.token)
  wanted = [logsum(token[r, a:b]) for r, (a, b) in zip(row, pairs, strict=True)]
  close(found, np.array(wanted))


def test_mass_keeps_what_is_small_beside_what_is_large():
  token = np.full((1, 256), -200.0, np.float32)
  token[0, 0] = 0.0
  token[0, 255] = 80.0
  rows = rows_of(token, np.zeros(1, np.float32))
  one = jnp.ones(1, jnp.int32)
  found = lemma.interval_logsumexp(rows, 0 * one, one, 255 * one)
  close(found, np.array([-200 + np.log(254)]), 2e-5)


@functools.cache
def standing_of(name):
  """Nodes of a few texts, one after the other, and what they spell."""
  one = make_bench(name)
  capacity = token_tree.Capacity(nodes=24, states=8, width=16)
  texts = [text for text in one.texts() if len(text) <= 16][-6:]
  parts, nodes = [], []
  for text in texts:
    buffer = np.zeros((1, 16), np.uint8)
    buffer[0, : len(text)] = list(text)
    length, start = np.array([len(text)]), np.array([one.padded.start])
    read = jax.jit(token_tree.read, static_argnums=1)
    found, _, path = read(one.padded, capacity, buffer, length, start)
    found, path = jax.tree.map(lambda leaf: leaf[0], (found, path))
    count = int(found.count)
    parts.append(
      token_tree.standing(one.padded, found, path, jnp.arange(count))
    )
    token_id = np.asarray(one.padded.token_id)
    ids = [()]
    for token, parent in zip(
      found.token[1:count], found.parent[1:count], strict=True
    ):
      ids.append((*ids[int(parent)], int(token_id[token])))
    nodes += ids
  return one, jax.tree.map(lambda *leaf: jnp.concatenate(leaf), *parts), nodes


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_masked_and_renormalized(name, ends):
  one, standing, nodes = standing_of(name)
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(len(nodes), one.model.vocab_size)) * 30
  logits = logits.astype(np.float32)
  # A second end token: an id that spells nothing.
  end_ids = [*one.entry.ends, one.model.vocab_size - 1][:ends]
  tables = dataclasses.replace(one.padded, end_ids=jnp.array(end_ids))
  rows = lemma.rows(tables, jnp.asarray(logits), standing)
  rows = jax.device_get(rows)
  token_id = np.asarray(tables.token_id)
  assert not rows.token.shape[1] % lemma.BLOCK
  assert rows.token.shape[1] >= len(token_id)
  assert rows.block.shape[1] == rows.group.shape[1] * lemma.BLOCK
  for k, node in enumerate(nodes):
    row = logits[k].astype(np.float64)
    kids, canonical = one.oracle.law(node)
    end = logsum(row[end_ids]) if canonical else -np.inf
    norm = np.logaddexp(logsum(row[kids]), end)
    wanted = np.full(rows.token.shape[1], -np.inf)
    for at, id_ in enumerate(token_id[: int(tables.high[0])]):
      if id_ in kids:
        wanted[at] = row[id_] - norm
    close(rows.token[k], wanted, 3e-5)
    block = sums(wanted[None])[0]
    close(rows.block[k, : len(block)], block, 3e-5)
    assert np.isneginf(rows.block[k, len(block) :]).all()
    close(rows.group[k], sums(np.asarray(rows.block[k])[None])[0], 3e-5)
    close(rows.eos[k], end - norm, 3e-5)
    close(rows.total[k], norm - logsum(row), 3e-5)


def test_rows_that_trust_the_model_are_its_own():
  one, standing, nodes = standing_of("gpt2")
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(len(nodes), one.model.vocab_size)) * 5
  rows = lemma.rows(
    one.tables, jnp.asarray(logits, jnp.float32), standing, trust_model=True
  )
  norm = np.array([logsum(row) for row in logits])[:, None]
  token_id = np.asarray(one.tables.token_id)
  close(rows.token[:, : len(token_id)], logits[:, token_id] - norm)
  close(rows.eos, (logits[:, list(one.entry.ends)] - norm)[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_next_bytes_are_sums_over_the_trie(name):
  one = make_bench(name)
  tables = one.padded
  rng = np.random.default_rng(2)
  rows = random_rows(rng, 4, len(tables.token_id))
  spelled = [one.oracle.spelled[t] for t in np.asarray(tables.token_id)]
  spelled = spelled[: int(tables.high[0])]
  low, high = np.asarray(tables.low), np.asarray(tables.high)
  place = rng.integers(0, int((high > low).sum()), 24)
  place[:4] = 0
  row = rng.integers(-1, 4, 24)
  found = jax.jit(lemma.next_bytes)(
    tables, rows, jnp.asarray(row), jnp.asarray(place)
  )
  depths = depth_of(tables, spelled)
  token = np.asarray(rows.token)
  for k in range(24):
    wanted = [[] for _ in range(257)]
    if row[k] >= 0:
      depth = depths[place[k]]
      for at in range(low[place[k]], high[place[k]]):
        if len(spelled[at]) > depth:
          wanted[spelled[at][depth]].append(token[row[k], at])
      if not depth:
        wanted[256] = [np.asarray(rows.eos)[row[k]]]
    close(found[k], np.array([logsum(each) for each in wanted]))


def depth_of(tables, spelled):
  """How many bytes lead to each node of the trie."""
  depths, queue = {0: 0}, [0]
  first, children = np.asarray(tables.first_child), np.asarray(tables.children)
  for node in queue:
    for child in range(first[node], first[node] + children[node]):
      depths[child] = depths[node] + 1
      queue.append(child)
  assert len(depths) == len({p[:k] for p in spelled for k in range(len(p) + 1)})
  return depths


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beyond", [False, True])
def test_following_a_text_sums_over_what_starts_with_it(name, beyond):
  one = make_bench(name)
  tables = one.padded
  rng = np.random.default_rng(3)
  texts = [t for t in one.texts() if 4 <= len(t) <= 16][:3]
  buffer = np.zeros((3, 16), np.uint8)
  for line, text in zip(buffer, texts, strict=True):
    line[: len(text)] = list(text)
  length = np.array([len(text) for text in texts])
  rows = random_rows(rng, 20, len(tables.token_id))
  owner = rng.integers(0, 3, 20)
  end = rng.integers(0, 17, 20)
  end[0] = np.iinfo(np.int32).max
  found = jax.jit(lemma.follow_text, static_argnames="beyond")(
    tables, rows, *map(jnp.asarray, (end, buffer, length, owner)), beyond=beyond
  )
  spelled = [one.oracle.spelled[t] for t in np.asarray(tables.token_id)]
  spelled = spelled[: int(tables.high[0])]
  usable = {
    at
    for node, at in enumerate(np.asarray(tables.exact).tolist())
    if at >= 0 and tables.twins[node]
  }
  token = np.asarray(rows.token)
  assert (found.beyond is not None) == beyond
  for k in range(20):
    rest = texts[owner[k]][end[k] :]
    for depth in range(tables.longest):
      part = rest[: depth + 1] if depth < len(rest) else None
      starts, exact, longer = [], [], []
      for at, piece in enumerate(spelled):
        if part is not None and piece.startswith(part):
          starts.append(token[k, at])
          if piece == part and at in usable:
            exact.append(token[k, at])
          if piece != part:
            longer.append(token[k, at])
      close(found.starts[k, depth], logsum(starts))
      close(found.exact[k, depth, 0], logsum(exact))
      if beyond:
        close(found.beyond[k, depth], logsum(longer))


def test_sums_of_nothing_are_impossible_and_not_numbers_stay():
  sum_ = numerics.logsumexp
  nothing = jnp.full((2, 3), -jnp.inf)
  assert jnp.isneginf(sum_(nothing, 1)).all()
  assert jnp.isneginf(sum_(jnp.zeros((2, 0)), 1)).all()
  assert jnp.isnan(sum_(jnp.array([[0.0, jnp.nan]]), 1)).all()
  close(sum_(jnp.array([[-jnp.inf, -300.0, 90.0]]), 1), np.array([90.0]))
