"""Nodes byte by byte: masks, steps and room, against the brute force."""

import functools

import benches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers_zoo
from benches import make_bench

from byteprob import lemma, rules, scoring, token_tree
from byteprob.rules import bpe


@functools.partial(jax.jit, static_argnums=1)
def read(tables, capacity, text, length, start):
  """Nodes of texts, what decides on what may follow them, their masks."""
  nodes, front, path = token_tree.read(tables, capacity, text, length, start)
  stand = functools.partial(token_tree.standing, tables)
  every = jnp.arange(capacity.nodes)
  standing = jax.vmap(stand, in_axes=(0, 0, None))(nodes, path, every)
  masks = jax.vmap(functools.partial(lemma.mask, tables))(standing)
  return nodes, front, masks


@functools.partial(jax.jit, static_argnums=1)
def follow(tables, lanes, nodes, parent):
  """Whether each token may follow nodes, asked token by token."""
  every = jnp.arange(len(tables.token_id), dtype=jnp.int32)

  def after(nodes, node):
    states, _, confused = rules.of(tables).follow(
      tables, lanes, nodes, jnp.full_like(every, node), every
    )
    return (states >= 0).any(1), confused

  return jax.vmap(after)(nodes, parent)


def spread(one, texts, count=benches.BATCH, size=16):
  """Texts as `read` takes them."""
  length = np.zeros(count, np.int32)
  buffer = np.zeros((count, size), np.uint8)
  for k, text in enumerate(texts):
    length[k] = len(text)
    buffer[k, : len(text)] = list(text)
  start = np.full(count, one.padded.start, np.int32)
  return buffer, length, start


CAPACITY = token_tree.Capacity(nodes=32, states=8, width=16)


@pytest.mark.parametrize("name", tokenizers_zoo.every())
def test_masks_are_what_the_brute_force_allows_and_what_steps_allow(name):
  one = make_bench(name)
  # Whole texts are enough: all their nodes are looked at.
  texts = sorted(one.texts(), key=len)[-24:]
  nodes, front, (allowed, may_end) = read(
    one.padded, CAPACITY, *spread(one, texts)
  )
  assert not front.overflow.any()
  token_id = np.asarray(one.padded.token_id)
  nodes, allowed, may_end = jax.device_get((nodes, allowed, may_end))
  asked = []
  for k in range(len(texts)):
    part = jax.tree.map(lambda leaf, k=k: leaf[k], nodes)
    part = scoring._cut_nodes(part)
    for n, path in enumerate(scoring.paths(part, token_id)):
      kids, canonical = one.oracle.law(path)
      assert set(token_id[allowed[k, n]].tolist()) == set(kids)
      assert allowed[k, n].sum() == len(kids)
      assert may_end[k, n] == canonical
      asked.append((k, n))
  if one.padded.forms or one.padded.rule == "unigram":
    # A step alone does not know of the normalization form, nor of the other
    # paths to the same byte.
    return
  # Token by token the answer is the same, for every token there is.
  for first in range(0, len(asked), 256):
    some = asked[first : first + 256]
    k, n = np.array(some + some[:1] * (256 - len(some))).T
    stepped, confused = jax.device_get(
      follow(one.padded, 8, jax.tree.map(lambda leaf, k=k: leaf[k], nodes), n)
    )
    assert not confused.any()
    np.testing.assert_array_equal(stepped, allowed[k, n])


def test_a_node_is_its_parent_and_a_token():
  one = make_bench("whole_pieces")
  texts = one.texts()
  nodes, _, _ = jax.device_get(read(one.padded, CAPACITY, *spread(one, texts)))
  length = np.asarray(one.padded.length)
  for k, text in enumerate(texts):
    count = nodes.count[k]
    token, parent = nodes.token[k, 1:count], nodes.parent[k, 1:count]
    assert (parent < np.arange(1, count)).all()
    end, depth = nodes.end[k, :count], nodes.depth[k, :count]
    np.testing.assert_array_equal(end[1:], end[parent] + length[token])
    np.testing.assert_array_equal(depth[1:], depth[parent] + 1)
    assert (np.diff(end) >= 0).all()
    assert end.max() <= len(text)
    assert (nodes.token[k, count:] == -1).all()


def test_live_starts_are_the_nodes_that_some_token_carries_on():
  one = make_bench("deepseek")
  texts = one.texts()
  token_id = np.asarray(one.padded.token_id)
  for text, score in zip(texts, benches.scores(one, texts), strict=True):
    paths = scoring.paths(score.nodes, token_id)
    node, place, _ = score.front
    found = {paths[n] for n, p in zip(node, place, strict=True)}
    needed = set()
    for path in paths:
      rest = text[len(one.oracle.bytes_of(path)) :]
      kids, _ = one.oracle.law(path)
      pieces = [one.oracle.spelled[kid] for kid in kids]
      if not rest or any(
        piece.startswith(rest) and piece != rest for piece in pieces
      ):
        needed.add(path)
    assert needed <= found
    assert len(node) == len(found)
    low, high = np.asarray(one.padded.low), np.asarray(one.padded.high)
    for n, p in zip(node, place, strict=True):
      rest = text[len(one.oracle.bytes_of(paths[n])) :]
      spelled = [one.oracle.spelled[t] for t in token_id[low[p] : high[p]]]
      assert spelled and all(piece.startswith(rest) for piece in spelled)


def test_too_little_room_is_reported():
  one = make_bench("gpt2")
  text = b"a  a\n\nal \n  l\na"
  for small in (
    {"nodes": 10}, {"width": 1}, {"born": 0}, {"states": 1}
  ):  # fmt: skip
    capacity = benches.dataclasses.replace(CAPACITY, **small)
    _, front, _ = read(one.padded, capacity, *spread(one, [text], 1))
    assert front.overflow[0], small
  _, front, _ = read(one.padded, CAPACITY, *spread(one, [text], 1))
  assert not front.overflow[0]


def test_room_is_made_until_there_is_enough(monkeypatch):
  one = make_bench("gpt2")
  query = one.query(b"a  a\n\nal  ll\n\na")
  roomy = scoring.nodes(one.padded, query)
  begin = token_tree.Capacity

  def small(*, nodes, states):
    return begin(nodes=nodes // 8, states=max(1, states // 4), width=2, born=1)

  monkeypatch.setattr(token_tree, "Capacity", small)
  narrow = scoring.nodes(one.padded, query)
  for name in ("token", "parent", "end", "depth"):
    np.testing.assert_array_equal(getattr(roomy, name), getattr(narrow, name))


def test_lanes_change_nothing(monkeypatch):
  one = make_bench("ranked_splits_2")
  texts = one.texts()[:1] + sorted(one.texts(), key=len)[-8:]
  args = spread(one, texts, 16)
  whole = read(one.padded, CAPACITY, *args)
  monkeypatch.setattr(bpe, "_LOOKUPS", 0)
  few = benches.dataclasses.replace(CAPACITY, lanes=1)
  parts = read(one.padded, few, *args)
  for one_, other in zip(
    jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True
  ):
    np.testing.assert_array_equal(one_, other)


def test_children_are_those_of_the_tokens():
  one = make_bench("every_byte")
  tables = one.tables
  low, high = np.asarray(tables.low), np.asarray(tables.high)
  spelled = [one.oracle.spelled[t] for t in np.asarray(tables.token_id)]
  place = {b"": 0}
  for text in sorted({p[:k] for p in spelled for k in range(1, len(p) + 1)}):
    step = token_tree.child(
      tables, jnp.array([place[text[:-1]]]), jnp.array([text[-1]])
    )
    place[text] = int(step[0])
    tokens = range(low[place[text]], high[place[text]])
    assert [spelled[t] for t in tokens] == [
      piece for piece in spelled if piece.startswith(text)
    ]
  every = jnp.arange(256, dtype=jnp.int32)
  for text in (b"\xc3", b"\xf0\x9f", b"\xed\x9f"):
    found = token_tree.child(tables, jnp.full(256, place[text]), every)
    there = np.flatnonzero(np.asarray(found) >= 0).tolist()
    assert there == sorted(
      p[len(text)] for p in place if len(p) == len(text) + 1 and p[:-1] == text
    )
  assert (token_tree.child(tables, jnp.full(256, -1), every) == -1).all()
