"""Sampling: the same bytes at fewer model calls, in the right shares."""

import collections
import itertools
import re

import benches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import check_shares, close, make_bench

import byteprob
from byteprob import scoring
from byteprob.engine import batch, request
from byteprob.engine.needs import Needs
from byteprob.errors import ConstraintError, PromptError

EOS = 256


def contexts_of(one, count=4):
  """Some beginnings of texts that end anywhere, the empty one first."""
  return [b"", *[text for text in one.texts() if 2 < len(text) < 9]][:count]


@pytest.mark.parametrize(
  ("name", "settings"),
  [
    ("gpt2", {}),
    pytest.param("whole_pieces", {}, marks=pytest.mark.slow),
    pytest.param("gemma", {}, marks=pytest.mark.slow),
    pytest.param(
      "gpt2", {"temperature": 0.6, "top_p": 0.9}, marks=pytest.mark.slow
    ),
  ],
)
def test_lazy_draws_are_the_exact_ones(name, settings):
  one = make_bench(name)
  lm, contexts = one.byte_lm(), contexts_of(one)
  key = jax.random.key(1)
  lazy = lm.sample(contexts, key, 40, **settings)
  exact = lm.sample(contexts, key, 40, exact=True, **settings)
  for fast, slow in zip(lazy, exact, strict=True):
    assert fast.text == slow.text
    assert fast.reason == slow.reason
    close(fast.logprobs, slow.logprobs, 3e-5)
    assert fast.calls <= slow.calls
  calls = [sum(each.calls for each in found) for found in (lazy, exact)]
  assert calls[0] < calls[1]


@pytest.mark.parametrize(
  "name",
  [
    "gpt2",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("unigram_ties_1", "whole_pieces", "gemma", "wordpiece")
    ),
  ],
)
def test_log_probs_are_those_of_scoring(name):
  one = make_bench(name)
  lm, contexts = one.byte_lm(), contexts_of(one)
  samples = lm.sample(contexts, jax.random.key(2), 40)
  for context, sample in zip(contexts, samples, strict=True):
    wanted = lm.byte_logprobs(sample.text, context)
    close(sample.logprobs[: len(wanted)], wanted, 3e-5)
    if sample.reason == "end":
      end = lm.next_byte_logprobs(context + sample.text)[EOS]
      close(sample.logprobs[-1], end, 3e-5)
    else:
      assert len(sample.text) == len(sample.logprobs) == 40


def test_a_text_does_not_depend_on_its_neighbours():
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(3)
  contexts = [b"a'l", b"a\n\n", b"s", b"a'l"]
  together = lm.sample(contexts, key, 40)
  assert together[0].text != together[3].text  # their keys differ
  for k, sample in list(enumerate(together))[2:]:
    # Its number decides on its key.
    padded = [b"l"] * k + [contexts[k]]
    with_key = [contexts[k]], jax.random.fold_in(key, k)[None]
    for alone in (lm.sample(padded, key, 40)[k], *lm.sample(*with_key, 40)):
      assert alone.text == sample.text
      close(alone.logprobs, sample.logprobs)


def test_what_several_texts_begin_with_is_read_once(monkeypatch):
  lm = make_bench("gpt2").byte_lm()
  read, run, read_texts = [], scoring.run, batch.read_texts

  def told(model, tables, queries, **kwargs):
    read.append([query.text for query in queries])
    return run(model, tables, queries, **kwargs)

  def read_on(size, reader, member, texts, *rest, **kwargs):
    read.append(list(texts))
    return read_texts(size, reader, member, texts, *rest, **kwargs)

  monkeypatch.setattr(scoring, "run", told)
  monkeypatch.setattr(batch, "read_texts", read_on)
  key = jax.random.key(3)
  for context in (b"a'l" * 12, b"l" * 40):
    lm.sample([context] * 3, key, 4)
    lm.sample_tokens([context] * 3, key, 4)
    assert read == [[context]] * 2
    read.clear()


def test_keys_that_are_none():
  lm = make_bench("gpt2").byte_lm()
  for sample in (lm.sample, lm.sample_tokens):
    with pytest.raises(ValueError, match=r"for each text: 1, not \(2,"):
      sample([b"a"], jax.random.split(jax.random.key(0)), 4)
    with pytest.raises(ValueError, match="not PRNGKey"):
      sample([b"a"], jax.random.PRNGKey(0), 4)


def reference(one, context, size, settings, allows=None):
  """Probabilities of all texts of a size, by the controlled exact law.

  Args:
    one: the bench.
    context: what comes before the texts.
    size: bytes of each.
    settings: of the draws.
    allows: `allows(text, symbol)` says what the constraint lets follow.
  """
  rest = {
    "temperature": 1.0, "top_k": 257, "top_p": 1.0, "min_p": 0.0
  } | settings  # fmt: skip
  rest.pop("exact", None)
  found = collections.Counter()

  def extend(text, probability, left):
    if not left:
      found[text] += probability
      return
    logs = one.reference.next(context + text) / rest["temperature"]
    if allows:
      able = [allows(text, symbol) for symbol in range(257)]
      logs = np.where(able, logs, -np.inf)
    order = np.argsort(-logs, kind="stable")[: rest["top_k"]]
    share = np.exp(logs[order] - np.logaddexp.reduce(logs[order]))
    before = np.cumsum(share) - share
    keep = (before < rest["top_p"]) & (share >= rest["min_p"] * share[0])
    share = np.where(keep, share, 0) / share[keep].sum()
    for symbol, part in zip(order.tolist(), share.tolist(), strict=True):
      if part and symbol == EOS:
        found[text + b"$"] += probability * part
      elif part:
        extend(text + bytes([symbol]), probability * part, left - 1)

  extend(b"", 1.0, size)
  return found


def agree(samples, wanted):
  """Chi-square of drawn texts, `$` for their ends, and their shares."""
  counts = collections.Counter(
    sample.text + b"$" * (sample.reason == "end") for sample in samples
  )
  check_shares(counts, wanted)


@pytest.mark.parametrize(
  "settings",
  [
    pytest.param({}, marks=pytest.mark.slow),
    {"temperature": 0.8, "top_p": 0.95},
    pytest.param({"temperature": 1.7}, marks=pytest.mark.slow),
    pytest.param({"top_k": 3}, marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize(
  "exact", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_texts_come_in_their_shares(settings, exact):
  one = make_bench("gpt2")
  lm, size, context = one.byte_lm(), 3, b"a'"
  samples = itertools.chain.from_iterable(
    lm.sample([context] * 256, jax.random.key(k), size, exact=exact, **settings)
    for k in range(8)
  )
  agree(samples, reference(one, context, size, settings))


@pytest.mark.slow
def test_one_by_one_they_come_in_the_same_shares():
  one = make_bench("gpt2")
  lm, context = one.byte_lm(), b"a'"
  samples = [lm.sample([context], jax.random.key(k), 2)[0] for k in range(600)]
  agree(samples, reference(one, context, 2, {}))


PATTERN = "[ls][^']*"


def test_a_constraint_multiplies_in():
  one = make_bench("gpt2")
  lm, context, size = one.byte_lm(), b"a'", 3

  def allows(text, symbol):
    if not text:
      return symbol in (ord("l"), ord("s"))
    return symbol != ord("'")

  samples = [
    sample
    for k in range(8)
    for sample in lm.sample(
      [context] * 256, jax.random.key(k), size, constraint=PATTERN
    )
  ]
  agree(samples, reference(one, context, size, {}, allows))
  for sample in samples[:4]:
    # Told by the model itself.
    wanted = lm.byte_logprobs(sample.text, context)
    close(sample.logprobs[: len(wanted)], wanted, 3e-5)


def test_a_constraint_says_when_it_is_complete_or_impossible():
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(1)
  (done,) = lm.sample([b"a"], key, 9, constraint="(l|s){3}")
  assert done.reason == "complete"
  assert re.fullmatch("[ls]{3}", done.text.decode())
  assert len(done.logprobs) == 3
  # No token of this model spells a z.
  (stuck,) = lm.sample([b"a"], key, 9, constraint="lsz")
  assert (stuck.reason, stuck.text) == ("impossible", b"ls")
  assert len(stuck.logprobs) == 2
  (empty,) = lm.sample([b"a"], key, 9, constraint="")
  assert (empty.reason, empty.text) == ("complete", b"")
  with pytest.raises(ConstraintError, match="matches nothing"):
    lm.sample([b"a"], key, 9, constraint=r"[^\s\S]")


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_pruning_says_what_it_leaves_out(exact):
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(4)
  # Four at a time, as in other tests: nothing is compiled for these alone.
  contexts = [b"a'l"] * 4
  keys = jax.random.split(key, 8)

  def drawn(**settings):
    return [
      sample
      for k in keys
      for sample in lm.sample(contexts, k, 40, exact=exact, **settings)
    ]

  samples = drawn(eps=0.05)
  assert sum(sample.error > 0.01 for sample in samples) > 4
  texts = [sample.text for sample in samples]
  wanted = lm.byte_logprobs_batch(texts, contexts * 8)
  for sample, own in zip(samples, wanted, strict=True):
    if exact:
      # What is kept of a text's probability is a part of it.
      kept = sample.logprobs[: len(own)].sum() + np.log1p(-sample.error)
      assert kept <= own.sum() + 1e-4
    else:
      close(sample.logprobs[: len(own)], own, 3e-5)
  plain = drawn()
  assert all(sample.error == 0 for sample in plain)
  assert sum(s.calls for s in samples) < sum(s.calls for s in plain)


def test_greedy_takes_the_most_probable():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  sample, *_ = lm.sample([b"a"] * 4, jax.random.key(0), 40, greedy=True)
  text = b"a"
  for byte in sample.text[:12]:
    assert one.reference.next(text).argmax() == byte
    text += bytes([byte])


def test_warpers_cut_off_what_they_should():
  logs = jnp.log(jnp.array([0.1, 0.4, 0.3, 0.2] + [0.0] * 253))
  base = {
    "temperature": jnp.float32(1), "top_k": jnp.int32(257),
    "top_p": jnp.float32(1), "min_p": jnp.float32(0),
    "greedy": jnp.bool_(False),
  }  # fmt: skip

  def kept(**changes):
    found = request.warp(request.LogitWarpers(**(base | changes)), logs)
    return np.flatnonzero(np.isfinite(found)).tolist()

  assert kept() == [0, 1, 2, 3]
  assert kept(top_k=jnp.int32(2)) == [1, 2]
  assert kept(top_p=jnp.float32(0.4)) == [1]
  assert kept(top_p=jnp.float32(0.41)) == [1, 2]
  assert kept(min_p=jnp.float32(0.45)) == [1, 2, 3]
  assert kept(top_k=jnp.int32(3), top_p=jnp.float32(0.5)) == [1, 2]


def test_stop_strings_stop_at_their_last_byte():
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(5)
  contexts = [b"a", b"l", b"s", b"a'l"]
  free = lm.sample(contexts, key, 40)
  stops = (b"\n", b"'l")
  stopped = lm.sample(contexts, key, 40, stop=stops)
  for whole, part in zip(free, stopped, strict=True):
    ends = [
      whole.text.find(stop) + len(stop) for stop in stops if stop in whole.text
    ]
    if ends:
      assert part.reason == "stop"
      assert part.text == whole.text[: min(ends)]
    else:
      assert part.text == whole.text
  assert any(sample.reason == "stop" for sample in stopped)


def test_a_stream_is_what_is_sampled():
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(6)
  (whole,) = lm.sample([b"a\n"], key, 40)
  parts = list(lm.stream(b"a\n", key, 40))
  assert b"".join(parts) == whole.text
  assert 1 < len(parts) <= whole.calls
  # One that is not read to its end leaves nothing behind.
  first = next(iter(lm.stream(b"a\n", key, 40)))
  assert first == parts[0]


@pytest.mark.slow
def test_more_room_is_made_where_it_is_needed(monkeypatch):
  one = make_bench("random_order_1")
  # One that never ends.
  endless = benches.dataclasses.replace(
    one.padded, end_ids=jnp.zeros(0, jnp.int32)
  )
  lm, key = benches.lm.ByteLM(one.model, endless), jax.random.key(7)
  contexts = [b"abc", b"ca"]
  wanted = lm.sample(contexts, key, 300, exact=True)
  made, grow = [], batch._grow_member

  def noting(size, member, needs):
    made.append(needs)
    return grow(size, member, needs)

  monkeypatch.setattr(batch, "_grow_member", noting)
  monkeypatch.setattr(batch, "capacity_of", lambda tokens: 32)
  small = {"chunk_bytes": 16, "chunk_nodes": 32, "chunk_rows": 8}
  monkeypatch.setattr(batch, "_CHUNKS", {32: small})
  for exact in (False, True):
    made.clear()
    for sample, other in zip(
      lm.sample(contexts, key, 300, exact=exact), wanted, strict=True
    ):
      assert sample.text == other.text
      assert sample.reason == other.reason
      close(sample.logprobs, other.logprobs, 3e-5)
    assert Needs.SLOTS in made
  assert [len(sample.text) for sample in wanted] == [300, 300]


@pytest.mark.slow
def test_slots_of_dead_branches_are_used_again():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  (sample,) = lm.sample([b"a"], jax.random.key(8), 200, exact=True)
  tokens = len(lm.encode(b"a" + sample.text))
  nodes = len(lm.covers(b"a" + sample.text))
  assert nodes > 0
  assert sample.slots <= tokens + 16
  every = scoring.nodes(lm.tables, lm._cut(b"a" + sample.text)[-1].query)
  assert sample.slots < 0.8 * int(every.count)


@pytest.mark.slow
def test_the_context_may_run_full():
  one = make_bench("random_order_1")
  small = benches.dataclasses.replace(
    one, model=benches.dataclasses.replace(one.model, context_length=40)
  )
  (sample,) = small.byte_lm().sample([b"abc"], jax.random.key(9), 400)
  assert sample.reason == "context"
  assert 0 < len(sample.text) < 400
  with pytest.raises(PromptError, match="context"):
    small.byte_lm().sample([b"abc" * 40], jax.random.key(9), 4)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"temperature": 0}, "greedy=True"),
    ({"temperature": -1.0}, "above 0"),
    ({"temperature": float("nan")}, "above 0"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"min_p": 2.0}, "min_p"),
    ({"top_k": -1}, "top_k"),
    ({"max_bytes": 0}, "max_bytes"),
    ({"stop": (b"",)}, "stop"),
    ({"eps": 1.0}, "eps"),
    ({"eps": -0.1}, "eps"),
    ({"exact": 2}, "exact must be True or False"),
    ({"ahead": 4}, "no setting 'ahead'"),
    ({"rows": 2}, "no setting 'rows'"),
    ({"draft": "look_up"}, "no setting 'draft'"),
  ],
)
def test_settings_that_make_no_sense_are_errors(settings, message):
  lm = make_bench("gpt2").byte_lm()
  rest = {"max_bytes": 4} | settings
  with pytest.raises(ValueError, match=message):
    lm.sample([b"a"], jax.random.key(0), **rest)


def test_nothing_asked_nothing_given():
  assert make_bench("gpt2").byte_lm().sample([], jax.random.key(0), 4) == []


def test_few_shapes_are_compiled():
  lm = make_bench("gpt2").byte_lm()
  lm.sample([b"a"], jax.random.key(0), 20)
  before = batch._generate._cache_size()
  for size, context in itertools.product((5, 11, 30), (b"", b"a'l", b"l" * 8)):
    lm.sample([context], jax.random.key(size), size, temperature=0.7)
  assert batch._generate._cache_size() == before


@pytest.mark.parametrize(
  ("context", "pattern"),
  [("import nump", "y|ish"), ("name: ", "[A-Za-z]{3}")],
)
def test_what_a_constraint_completes_ends_there(context, pattern):
  """Nothing more is drawn, and nothing more is told of."""
  lm, key = byteprob.load("stdlib-bpe"), jax.random.key(0)
  for exact in (False, True):
    (sample,) = lm.sample([context], key, 20, constraint=pattern, exact=exact)
    assert sample.reason == "complete"
    assert re.fullmatch(pattern, sample.text.decode())
    assert len(sample.logprobs) == len(sample.text)
    wanted = lm.byte_logprobs(sample.text, context)
    close(sample.logprobs, wanted, 1e-4)


def test_the_log_probs_of_a_text_that_ends_hold_the_end():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  for exact in (False, True):
    found = lm.sample([b"a\n\n"] * 4, jax.random.key(1), 40, exact=exact)
    assert any(sample.reason == "end" for sample in found)
    for sample in found:
      more = sample.reason == "end"
      assert len(sample.logprobs) == len(sample.text) + more
      if more:
        end = one.reference.next(b"a\n\n" + sample.text)[EOS]
        close(sample.logprobs[-1], end, 3e-5)


def test_a_stop_string_may_be_longer_than_most():
  one = make_bench("gpt2")
  lm, key = one.byte_lm(), jax.random.key(6)
  (free,) = lm.sample([b"l"], key, 60, greedy=True)
  stop = free.text[3:43]
  (found,) = lm.sample([b"l"], key, 60, greedy=True, stop=stop)
  assert found.text == free.text[: free.text.index(stop) + 40]
  assert found.reason == "stop"
