"""Sampling: the same bytes however they are drafted, in the right shares."""

import collections
import itertools

import benches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import close, make_bench

from byteprob.errors import PromptError
from byteprob.sampling import batch, controls, loop

EOS = 256
NAMES = ("gpt2", "whole_pieces", "gemma")


def contexts_of(one, count=4):
  """Some beginnings of texts that end anywhere, the empty one first."""
  return [b"", *[text for text in one.texts() if 2 < len(text) < 9]][:count]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.9}])
def test_drafting_changes_nothing(name, settings):
  one = make_bench(name)
  lm, contexts = one.byte_lm(), contexts_of(one)
  key = jax.random.key(1)
  drafted = lm.sample(contexts, key, 40, **settings)
  plain = lm.sample(contexts, key, 40, ahead=0, **settings)
  for fast, slow in zip(drafted, plain, strict=True):
    assert fast.text == slow.text
    assert fast.reason == slow.reason
    close(fast.logprobs, slow.logprobs)
    assert fast.calls <= slow.calls
  calls = [sum(each.calls for each in found) for found in (drafted, plain)]
  assert calls[0] < calls[1]


@pytest.mark.parametrize("name", NAMES)
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
    alone = lm.sample(padded, key, 40)[k]
    assert alone.text == sample.text
    close(alone.logprobs, sample.logprobs)


def reference(one, context, size, settings):
  """Probabilities of all texts of a size, by the controlled exact law."""
  rest = {
    "temperature": 1.0, "top_k": 257, "top_p": 1.0, "min_p": 0.0
  } | settings  # fmt: skip
  found = collections.Counter()

  def extend(text, probability, left):
    if not left:
      found[text] += probability
      return
    logs = one.reference.next(context + text) / rest["temperature"]
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


@pytest.mark.parametrize(
  "settings",
  [{}, {"temperature": 1.7}, {"temperature": 0.8, "top_p": 0.95}, {"top_k": 3}],
)
@pytest.mark.parametrize("ahead", [12, pytest.param(0, marks=pytest.mark.slow)])
def test_texts_come_in_their_shares(settings, ahead):
  one = make_bench("gpt2")
  lm, size, batch = one.byte_lm(), 3, 256
  context = b"a'"
  wanted = reference(one, context, size, settings)
  counts = collections.Counter()
  for k in range(8):
    for sample in lm.sample(
      [context] * batch, jax.random.key(k), size, ahead=ahead, **settings
    ):
      counts[sample.text + b"$" * (sample.reason == "end")] += 1
  total = sum(counts.values())
  assert set(counts) <= {text for text, share in wanted.items() if share > 0}
  # Chi-square, rare texts together; its mean is the degrees of freedom.
  rows = [(counts[t], share * total) for t, share in wanted.items()]
  often = [row for row in rows if row[1] >= 5]
  rare = np.sum([row for row in rows if row[1] < 5], axis=0)
  cells = np.array([*often, *([rare] if np.ndim(rare) and rare[1] else [])])
  statistic = ((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]).sum()
  freedom = len(cells) - 1
  assert freedom >= 2
  assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_greedy_takes_the_most_probable():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  (sample,) = lm.sample([b"a"], jax.random.key(0), 12, greedy=True)
  text = b"a"
  for byte in sample.text:
    assert one.reference.next(text).argmax() == byte
    text += bytes([byte])


def test_controls_cut_off_what_they_should():
  logs = jnp.log(jnp.array([0.1, 0.4, 0.3, 0.2] + [0.0] * 253))
  base = {
    "temperature": jnp.float32(1), "top_k": jnp.int32(257),
    "top_p": jnp.float32(1), "min_p": jnp.float32(0),
    "greedy": jnp.bool_(False),
  }  # fmt: skip

  def kept(**changes):
    found = controls.control(controls.Controls(**(base | changes)), logs)
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
  contexts = [b"a", b"l"]
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


def test_more_room_is_made_where_it_is_needed(monkeypatch):
  one = make_bench("random_order_1")
  # One that never ends.
  endless = benches.dataclasses.replace(
    one.padded, end_ids=jnp.zeros(0, jnp.int32)
  )
  lm, key = benches.lm.ByteLM(one.model, endless), jax.random.key(7)
  wanted = lm.sample([b"abc", b"ca"], key, 600)
  made = []
  widen = batch._widen

  def noting(*args):
    made.append(args[2])
    return widen(*args)

  monkeypatch.setattr(batch, "_widen", noting)
  run = batch.scoring.run

  def narrow(*args, spare, **rest):
    return run(*args, spare=1, **rest)

  monkeypatch.setattr(batch.scoring, "run", narrow)
  monkeypatch.setattr(batch, "bucket", lambda count: count)
  for sample, other in zip(
    lm.sample([b"abc", b"ca"], key, 600), wanted, strict=True
  ):
    assert sample.text == other.text
    close(sample.logprobs, other.logprobs)
  assert made
  assert [len(sample.text) for sample in wanted] == [600, 600]


def test_slots_of_dead_branches_are_used_again():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  (sample,) = lm.sample([b"a"], jax.random.key(8), 200)
  tokens = len(lm.encode(b"a" + sample.text))
  nodes = len(lm.covers(b"a" + sample.text))
  assert nodes > 0
  assert sample.slots <= tokens + 16
  every = batch.scoring.nodes(lm.tables, lm._cut(b"a" + sample.text)[-1].query)
  assert sample.slots < 0.8 * int(every.count)


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
    ({"ahead": -1}, "ahead"),
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
  before = loop.run._cache_size()
  for size, context in itertools.product((5, 11, 30), (b"", b"a'l", b"l" * 30)):
    lm.sample([context], jax.random.key(size), size, temperature=0.7)
  assert loop.run._cache_size() == before
