"""Scoring whole texts, against the brute force over all token sequences."""

import functools

import benches
import fakes
import numpy as np
import oracle
import pytest
import tokenizers_zoo
from benches import close, make_bench

from byteprob import scoring
from byteprob.errors import PromptError

EOS = 256

# Tables as they are, not padded to a shared size: one with states that do not
# start at 0, one with `ignore_merges`, one with several blocks of tokens.
BARE = ("llama3", "whole_pieces", "gemma")
EVERY = tokenizers_zoo.every(*(f"{name} bare" for name in BARE))


@functools.cache
def scored(case: str):
  """A bench, its texts and their scores."""
  name, *bare = case.split()
  one = make_bench(name)
  texts = one.texts()
  return one, texts, benches.scores(one, texts, padded=not bare)


@pytest.mark.parametrize("case", EVERY)
def test_next_bytes_are_those_of_the_brute_force(case):
  one, texts, found = scored(case)
  for text, score in zip(texts, found, strict=True):
    close(score.next, one.reference.next(text))


@pytest.mark.parametrize("case", EVERY)
def test_bytes_and_totals_are_those_of_the_brute_force(case):
  one, texts, found = scored(case)
  for text, score in zip(texts, found, strict=True):
    assert abs(score.total - one.reference.total(text)) < 1e-5
    close(score.byte, one.reference.each(text))


@pytest.mark.parametrize("case", EVERY)
def test_next_bytes_sum_to_one(case):
  _, _, found = scored(case)
  for score in found:
    assert abs(np.exp(score.next.astype(np.float64)).sum() - 1) < 1e-5


@pytest.mark.parametrize("case", EVERY)
def test_nodes_and_their_weights_are_those_of_the_brute_force(case):
  one, texts, found = scored(case)
  token_id = np.asarray(one.padded.token_id)
  if case.endswith("bare"):
    token_id = np.asarray(one.tables.token_id)
  for text, score in zip(texts, found, strict=True):
    paths = scoring.paths(score.nodes, token_id)
    assert len(paths) == len(set(paths))
    assert set(paths) == set(one.oracle.nodes(text))
    reference = one.reference
    wanted = [
      reference.weight(node) - reference.total(one.oracle.bytes_of(node))
      for node in paths
    ]
    close(score.node_weight, np.array(wanted))
    ends = [len(one.oracle.bytes_of(node)) for node in paths]
    assert score.nodes.end.tolist() == ends
    assert score.nodes.depth.tolist() == [len(node) for node in paths]


@pytest.mark.parametrize("case", EVERY)
def test_allowed_is_the_models_own_probability_of_what_is(case):
  one, texts, found = scored(case)
  assert len(texts) == len(found)
  for score in found[:20]:
    nodes = scoring.paths(score.nodes, np.asarray(one.padded.token_id))
    if case.endswith("bare"):
      nodes = scoring.paths(score.nodes, np.asarray(one.tables.token_id))
    wanted = []
    for node in nodes:
      logits = one.logits((*one.entry.start, *node))
      kids, canonical = one.oracle.law(node)
      allowed = [*kids, *(one.entry.ends if canonical else ())]
      every = np.logaddexp.reduce(logits)
      wanted.append(np.logaddexp.reduce(logits[allowed]) - every)
    close(score.allowed, np.array(wanted))


@pytest.mark.parametrize("name", ["gpt2", "whole_pieces", "gemma"])
def test_trusting_the_model_next_bytes_are_normalized_sums_over_covers(name):
  one = make_bench(name)
  texts = one.texts()
  law = oracle.Reference(
    one.oracle, one.logits, one.entry.start, trust_model=True
  )
  found = benches.scores(one, texts, padded=False, trust_model=True)
  for text, score in zip(texts, found, strict=True):
    close(score.next, law.next(text))
    assert abs(np.exp(score.next.astype(np.float64)).sum() - 1) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "whole_pieces", "gemma"])
def test_trusting_the_model_bytes_are_what_the_next_bytes_say(name):
  one = make_bench(name)
  texts = one.texts()
  law = oracle.Reference(
    one.oracle, one.logits, one.entry.start, trust_model=True
  )
  found = benches.scores(one, texts, padded=False, trust_model=True)
  for text, score in zip(texts, found, strict=True):
    close(score.byte, law.each(text))
    # The covers are not normalized: they get what the model gives them.
    assert abs(score.total - law.total(text)) < 1e-5


def alone(one, text, **rest):
  """The score of one text, by itself."""
  return scoring.score(one.model, one.padded, [one.query(text)], **rest)[0]


def same(one, other, tolerance=2e-6):
  """Checks that two scores of one text say the same."""
  close(one.byte, other.byte, tolerance)
  close(one.next, other.next, tolerance)
  close(one.node_weight, other.node_weight, tolerance)
  close(one.allowed, other.allowed, tolerance)
  assert abs(one.total - other.total) < tolerance * 10
  for name in ("token", "parent", "end", "depth"):
    np.testing.assert_array_equal(
      getattr(one.nodes, name), getattr(other.nodes, name)
    )


def test_a_text_scores_the_same_alone_and_among_others(monkeypatch):
  one = make_bench("gpt2")
  # Lengths around the edges of the padded sizes.
  text = b"a's  a\n\nal l'll aa \n 's"
  lengths = (0, 1, 15, 16, 17, len(text))
  texts = [text[:k] for k in lengths]
  together = scoring.score(one.model, one.padded, [*map(one.query, texts)])
  for score, each in zip(together, texts, strict=True):
    same(score, alone(one, each))
  monkeypatch.setattr(scoring, "MAX_BATCH_BYTES", 16)
  many = scoring.score_many(one.model, one.padded, [*map(one.query, texts)])
  for score, each in zip(many, together, strict=True):
    same(score, each)


def test_texts_of_the_edge_lengths_are_those_of_the_brute_force():
  one = make_bench("random_order_1")
  text = b"abcabbcaabcbacbbacbaabcabcbaacbbcaabbccab"
  for size in (15, 16, 17, 31, 32, 33):
    score = alone(one, text[:size])
    close(score.next, one.reference.next(text[:size]))
    close(score.byte, one.reference.each(text[:size]))


def test_chunks_change_nothing(monkeypatch):
  one = make_bench("gpt2")
  text = b"a's  a\n\nal l'll"
  whole = alone(one, text, keep_rows=True)
  monkeypatch.setattr(scoring, "MAX_ROWS", 5)
  parts = alone(one, text, keep_rows=True)
  same(whole, parts)
  for before, after in zip(whole.front, parts.front, strict=True):
    np.testing.assert_allclose(before, after, atol=2e-6)
  close(whole.front_rows, parts.front_rows, 2e-6)


def test_chunks_of_texts_that_do_not_end_together(monkeypatch):
  one = make_bench("smollm2")
  texts = [b"a", b"12 a\n\n1 2'' a  \n", b"1  a", b""]
  queries = [*map(one.query, texts)]
  whole = scoring.score(one.model, one.padded, queries)
  monkeypatch.setattr(scoring, "MAX_ROWS", 5)
  parts = scoring.score(one.model, one.padded, queries)
  for before, after in zip(whole, parts, strict=True):
    same(before, after)


def test_a_chunk_reuses_slots_that_no_later_node_needs(monkeypatch):
  one = make_bench("gpt2")
  sizes = []
  cache = one.model.init_cache

  def counting(batch, capacity):
    sizes.append(capacity)
    return cache(batch, capacity)

  monkeypatch.setattr(scoring, "MAX_ROWS", 16)
  model = benches.dataclasses.replace(one.model, init_cache=counting)
  text = b"a  a\n\nal  l\n\n" * 20
  score = scoring.score(model, one.padded, [one.query(text)])[0]
  branches = len(score.nodes.token) - len(one.oracle.encode([text.decode()])[0])
  assert branches > 60
  assert sizes[0] < len(score.nodes.token) - branches / 2


def test_a_long_text(monkeypatch):
  monkeypatch.setattr(scoring, "MAX_ROWS", 64)
  one = make_bench("random_order_2")
  rng = np.random.default_rng(0)
  text = bytes(rng.choice(list(b"abc"), 600).tolist())
  score = alone(one, text)
  wanted = one.reference.each(text)
  close(score.byte, wanted)
  close(score.next, one.reference.next(text))
  # No rounding piles up, though the total is far from 0.
  assert wanted.sum() < -700
  assert abs(score.total - wanted.sum()) < 5e-4


@pytest.mark.parametrize("name", ["gpt2", "whole_pieces", "gemma"])
def test_enormous_logits_make_nothing_impossible(name):
  one = make_bench(name)
  model, logits = fakes.model(one.model.vocab_size, 1, scale=90.0)
  wide = benches.dataclasses.replace(
    one,
    model=model,
    logits=logits,
    reference=oracle.Reference(one.oracle, logits, one.entry.start),
  )
  texts = wide.texts()
  spread = max(np.ptp(logits((*one.entry.start, *u))) for u in [(), (5,)])
  assert spread > 400
  for text, score in zip(texts, benches.scores(wide, texts), strict=True):
    wanted = wide.reference.next(text)
    close(score.next, wanted, 3e-3)
    close(score.byte, wide.reference.each(text), 3e-3)
    assert abs(np.exp(score.next.astype(np.float64)).sum() - 1) < 1e-4
    assert np.isfinite(score.total)
  for score in benches.scores(wide, texts, trust_model=True):
    assert np.isfinite(score.byte).all()
    assert np.isfinite(score.total)


def test_what_no_token_goes_on_with_is_impossible():
  one = make_bench("gpt2")
  score = alone(one, b"aba")
  assert np.isfinite(score.byte[0])
  assert np.isneginf(score.byte[1])
  assert np.isneginf(score.total)


def test_logits_that_are_not_numbers_are_an_error():
  one = make_bench("gpt2")
  broken = {**one.model.params, "head": one.model.params["head"] * np.nan}
  model = benches.dataclasses.replace(one.model, params=broken)
  with pytest.raises(PromptError, match="NaN"):
    scoring.score(model, one.padded, [one.query(b"a")])


def test_a_text_longer_than_the_context_is_an_error():
  one = make_bench("random_order_1")
  text = b"abc" * 5
  (ids,) = one.oracle.encode([text.decode()])
  needed = len(one.entry.start) + max(map(len, one.oracle.nodes(text)))
  assert needed >= len(ids)
  fits = benches.dataclasses.replace(one.model, context_length=needed)
  scoring.score(fits, one.padded, [one.query(text)])
  small = benches.dataclasses.replace(one.model, context_length=needed - 1)
  with pytest.raises(PromptError, match=f"{needed} tokens.*{needed - 1}"):
    scoring.score(small, one.padded, [one.query(text)])


def test_few_lengths_are_compiled():
  one = make_bench("gpt2")
  functions = (scoring._read, scoring._standing, scoring._call, scoring._weigh)
  for size in (1, 16, 17, 32, 33, 48):
    alone(one, (b"a's  la" * 7)[:size])
  before = [function._cache_size() for function in functions]
  for size in range(1, 49):
    alone(one, (b"la al's" * 7)[:size])
  after = [function._cache_size() for function in functions]
  # The number of nodes of a text may fall on another side of an edge.
  assert np.subtract(after, before).max() <= 1
  assert np.subtract(after, before).sum() <= 2


def test_sizes_are_padded_little_and_are_few():
  sizes = [scoring.round_up_to_bucket(count) for count in range(1, 4096)]
  assert all(size >= count for count, size in enumerate(sizes, 1))
  assert all(
    size <= count * 1.26 for count, size in enumerate(sizes, 1) if count > 128
  )
  assert sizes == sorted(sizes)
  assert len(set(sizes)) < 48
