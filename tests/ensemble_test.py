"""Ensembles: the members' brute-force laws, joined in NumPy."""

import collections
import dataclasses
import functools
import types

import jax
import numpy as np
import oracle
import pytest
from benches import close, make_bench
from lm_test import users, wanted_next
from sampling_test import agree, reference

from byteprob import Ensemble, PromptError

EOS = 256
NAMES = ("gpt2", "gpt2_split", "smollm2")
WEIGHTS = (0.3, 0.7)
STRATEGIES = ("mixture", "bayes", "product", "vote", "rank", "proxy")
TEXTS = (b"", b"a", b"a'", b"a\n\n", b"al", b" a'l", b"a'sl", b"al a")
"""The second and the third tokenizer have no l, and so read four of them."""

ALONG = (*TEXTS[:5], b" a's", b"a'1l", b"a1 l")
"""Nor has the first a 1, or the third an s: but all can read the first byte."""


def members(count: int):
  return [make_bench(name).byte_lm() for name in NAMES[:count]]


def size_of(strategy: str) -> int:
  return 3 if strategy == "proxy" else 2


def make(strategy: str, **rest) -> Ensemble:
  """An ensemble of different tokenizers."""
  if strategy != "proxy":
    rest = {"weights": WEIGHTS} | rest
  return Ensemble(members(size_of(strategy)), strategy, **rest)


@functools.cache
def law(name: str, text: bytes, temperature: float = 1.0) -> np.ndarray:
  """A member's log-probs of the next byte, by brute force."""
  one = make_bench(name)
  if not set(text) <= set("".join(one.entry.alphabet).encode()):
    return np.full(257, -np.inf)
  found = one.reference.next(text) / temperature
  return found - np.logaddexp.reduce(found)


def total(name: str, text: bytes, temperature: float = 1.0) -> float:
  """A member's log-prob that a text begins with these bytes."""
  rows = [law(name, text[:k], temperature)[b] for k, b in enumerate(text)]
  return float(sum(rows))


def together(strategy, text, temperatures=(1.0,) * 3) -> np.ndarray:
  """What the members say together, in probabilities and in float64."""
  own = list(zip(NAMES, temperatures, strict=True))[: size_of(strategy)]
  p = np.exp([law(name, text, heat) for name, heat in own])
  weights = np.array(WEIGHTS)
  if strategy == "bayes":
    weights = weights * np.exp([total(name, text, heat) for name, heat in own])
  if strategy in ("mixture", "bayes"):
    found = weights @ p
  elif strategy == "product":
    found = np.prod(p ** weights[:, None], axis=0)
  elif strategy == "proxy":
    base, expert, anti = p
    ratio = np.divide(expert, anti, out=np.ones(257), where=anti > 0)
    found = base * ratio
  elif strategy == "vote":
    votes = collections.Counter()
    for row, weight in zip(p, weights, strict=True):
      if row.any():
        votes[int(row.argmax())] += weight
    most = max(votes.values(), default=0)
    winners = [b for b, count in votes.items() if count == most]
    found = np.where(np.isin(np.arange(257), winners), weights @ p, 0)
  else:
    found = np.zeros(257)
    for row, weight in zip(p, weights, strict=True):
      place = np.argsort(np.argsort(-row, kind="stable"))
      found += weight * (row > 0) / (1 + place)
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.log(found / found.sum()) if found.any() else np.log(found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_next_bytes_are_the_brute_forces_joined(strategy):
  found = make(strategy).next_byte_logprobs_batch(TEXTS)
  for text, row in zip(TEXTS, found, strict=True):
    assert row.shape == (257,) and row.dtype == np.float32
    close(row, together(strategy, text), 3e-5)


@pytest.mark.parametrize("strategy", ["bayes", "product"])
def test_members_may_be_at_different_temperatures(strategy):
  heats = (0.7, 1.5)
  found = make(strategy, temperatures=heats).next_byte_logprobs_batch(TEXTS)
  for text, row in zip(TEXTS, found, strict=True):
    close(row, together(strategy, text, (*heats, 1.0)), 5e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_along_a_text_every_prefix_is_told(strategy):
  one, cut = make(strategy), 1
  texts = [text[cut:] for text in ALONG]
  contexts = [text[:cut] for text in ALONG]
  found = one.next_byte_logprobs_along_batch(texts, contexts)
  scored = one.byte_logprobs_batch(texts, contexts)
  for text, rows, own in zip(ALONG, found, scored, strict=True):
    rest = text[cut:]
    assert rows.shape == (len(rest) + 1, 257)
    for at, row in enumerate(rows):
      close(row, together(strategy, text[: len(text[:cut]) + at]), 3e-5)
    np.testing.assert_array_equal(
      own, rows[np.arange(len(rest)), np.frombuffer(rest, np.uint8)]
    )


def test_a_bayesian_mixture_is_the_mixture_of_whole_texts():
  one = make("bayes")
  scored = one.byte_logprobs_batch(ALONG)
  for text, own in zip(ALONG, scored, strict=True):
    parts = [total(name, text) for name in NAMES[:2]]
    wanted = np.logaddexp.reduce(np.log(WEIGHTS) + np.array(parts))
    possible = np.isfinite(wanted)
    assert possible == (text not in (b"a'1l", b"a1 l"))
    close(own.sum(dtype=np.float64), wanted, 3e-5)


@pytest.mark.parametrize("strategy", ["mixture", "bayes", "product"])
def test_one_model_with_itself_is_that_model(strategy):
  (lm,) = members(1)
  twice = Ensemble([lm, lm], strategy).next_byte_logprobs_batch(TEXTS)
  for text, row in zip(TEXTS, twice, strict=True):
    close(row, law(NAMES[0], text), 3e-5)


# What one model says along a text --------------------------------------------


@pytest.mark.parametrize(
  ("name", "validity"),
  [
    ("gpt2", "trust_model"),
    ("prefix_space", "exact"),
    pytest.param("gemma", "exact", marks=pytest.mark.slow),
    pytest.param("gemma", "trust_model", marks=pytest.mark.slow),
    pytest.param("llama2", "exact", marks=pytest.mark.slow),
  ],
)
def test_along_a_text_one_model_says_what_the_brute_force_says(name, validity):
  one = make_bench(name)
  law = oracle.Reference(
    one.oracle,
    one.logits,
    one.entry.start,
    trust_model=validity == "trust_model",
  )
  texts = sorted(users(one), key=len)[-8:]
  # Some have no context.
  cuts = [k % 3 for k in range(8)]
  found = one.byte_lm(validity=validity).next_byte_logprobs_along_batch(
    [text[cut:] for text, cut in zip(texts, cuts, strict=True)],
    [text[:cut] for text, cut in zip(texts, cuts, strict=True)],
  )
  for text, cut, rows in zip(texts, cuts, found, strict=True):
    assert len(rows) == len(text) - cut + 1
    for at, row in enumerate(rows, cut):
      close(row, wanted_next(one, text[:at], law), 3e-5)


# Sampling --------------------------------------------------------------------

CONTEXTS = (b"", b"a'", b"a\n", b"a'l")


def test_samples_have_the_log_probs_of_scoring():
  one = make("bayes")
  samples = one.sample(CONTEXTS, jax.random.key(1), 20)
  texts = [sample.text for sample in samples]
  scored = one.byte_logprobs_batch(texts, CONTEXTS)
  for sample, wanted in zip(samples, scored, strict=True):
    close(sample.logprobs[: len(wanted)], wanted, 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("strategy", "settings"),
  [
    ("bayes", {}),
    ("mixture", {}),
    ("product", {}),
    ("proxy", {}),
    ("vote", {"greedy": True}),
    ("rank", {"temperature": 0.6, "top_p": 0.9}),
    ("mixture", {"constraint": "[as '\n]*l?[as '\n]*"}),
    ("product", {"temperature": 0.7, "top_k": 3}),
    ("mixture", {"min_p": 0.1}),
  ],
)
def test_lazy_draws_are_the_exact_ones(strategy, settings):
  one, key = make(strategy), jax.random.key(1)
  # The product's second member cannot spell the last context.
  contexts = CONTEXTS if strategy in ("mixture", "bayes") else CONTEXTS[:3]
  lazy = one.sample(contexts, key, 40, **settings)
  exact = one.sample(contexts, key, 40, exact=True, **settings)
  for context, fast, slow in zip(contexts, lazy, exact, strict=True):
    assert fast.text == slow.text
    assert fast.reason == slow.reason
    close(fast.logprobs, slow.logprobs, 3e-5)
    wanted = one.byte_logprobs(fast.text, context)
    close(fast.logprobs[: len(wanted)], wanted, 5e-5)
  calls = [sum(each.calls for each in found) for found in (lazy, exact)]
  if strategy in ("mixture", "product"):
    assert calls[0] < calls[1]
  else:
    # Such a rule's bounds tell nothing: all is evaluated in any case.
    assert calls[0] == calls[1]


@pytest.mark.slow
def test_pruning_an_ensemble_says_what_it_leaves_out():
  one = make("mixture")
  samples = one.sample([b"a'"] * 16, jax.random.key(1), 40, eps=0.05)
  assert any(sample.error > 0.01 for sample in samples)
  exact = one.sample([b"a'"] * 16, jax.random.key(1), 40)
  assert all(sample.error == 0 for sample in exact)


@pytest.mark.slow
def test_texts_leave_members_behind():
  """Some texts have bytes that the first or the second cannot spell."""
  samples = make("mixture").sample([b"a"] * 16, jax.random.key(0), 40)
  texts = [sample.text for sample in samples]
  for byte in (b"l", b"1"):
    assert any(byte in text for text in texts)
  for sample, wanted in zip(
    samples,
    make("mixture").byte_logprobs_batch(texts, [b"a"] * 16),
    strict=True,
  ):
    close(sample.logprobs[: len(wanted)], wanted, 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("strategy", "settings"),
  [("mixture", {}), ("product", {}), ("bayes", {"temperature": 0.8})],
)
def test_texts_come_in_their_shares(strategy, settings):
  one, context, size = make(strategy), b"a'", 2
  samples = [
    sample
    for k in range(8)
    for sample in one.sample(
      [context] * 256, jax.random.key(k), size, **settings
    )
  ]
  joint = types.SimpleNamespace(
    reference=types.SimpleNamespace(next=functools.partial(together, strategy))
  )
  agree(samples, reference(joint, context, size, settings))


@pytest.mark.slow
def test_a_stream_from_an_ensemble():
  one, key = make("mixture"), jax.random.key(3)
  (whole,) = one.sample([b"a"], key, 24)
  parts = list(one.stream(b"a", key, 24))
  assert b"".join(parts) == whole.text
  assert len(parts) > 1


# What is refused -------------------------------------------------------------


@pytest.mark.parametrize(
  ("rest", "message"),
  [
    ({"weights": (1.0, 0.0)}, "weights must be above 0, not 0.0"),
    ({"weights": (1.0, -1.0)}, "above 0, not -1.0"),
    ({"weights": (1.0, float("nan"))}, "above 0, not nan"),
    ({"weights": (1.0,)}, "one for each of the 2 members, not 1"),
    ({"temperatures": (1.0, 0.0)}, "temperatures must be above 0"),
    ({"strategy": "median"}, "must be one of mixture, bayes"),
    ({"strategy": "proxy"}, "three members"),
    ({"members": ()}, "at least one"),
    ({"members": ("gpt2",)}, "must be ByteLMs"),
  ],
)
def test_what_makes_no_sense_is_refused(rest, message):
  with pytest.raises(ValueError, match=message):
    Ensemble(**({"members": members(2)} | rest))


def test_what_no_member_can_read_is_refused():
  one = make("mixture")
  for call in (
    one.next_byte_logprobs,
    lambda text: one.byte_logprobs(b"a", text),
    lambda text: one.sample([text], jax.random.key(0), 4),
  ):
    with pytest.raises(PromptError, match="0x7A at byte 1"):
      call(b"az")
  with pytest.raises(PromptError, match="bytes or str: token ids"):
    one.next_byte_logprobs([1, b"a"])
  with pytest.raises(PromptError, match="lone surrogate"):
    one.next_byte_logprobs("\ud800")


def test_contexts_of_different_lengths():
  short = make_bench("gpt2_split")
  short = dataclasses.replace(
    short, model=dataclasses.replace(short.model, context_length=8)
  )
  one = Ensemble([*members(1), short.byte_lm()])
  assert np.isfinite(one.byte_logprobs(b"as")).all()
  with pytest.raises(PromptError, match=r"Member 1: .*context has 8"):
    one.byte_logprobs(b"a's s's s" * 3)


def test_a_text_that_a_member_changes_is_refused():
  one = Ensemble([make_bench("prefix_space").byte_lm()] * 2)
  with (
    pytest.warns(UserWarning, match="begins with a space"),
    pytest.raises(PromptError, match="Member 0's tokenizer puts the text in"),
  ):
    one.byte_logprobs(b" a")
