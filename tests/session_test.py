"""Sessions: texts that are gone on with, and are what they are at once."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from benches import close, make_bench
from hypothesis import given, settings
from hypothesis import strategies as st

import byteprob
from byteprob import Ensemble, PromptError

EOS = 256
TEXT = b"a'll s\n\nsa'l as"
LONG = b"a'll s\n\nsa'l as" * 4
"""More than the loop reads itself."""


def model(name="gpt2"):
  return make_bench(name).byte_lm()


def ensemble(strategy):
  return Ensemble([model(), model("gpt2_split")], strategy)


def pieces(text, cuts):
  """A text, cut."""
  bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
  return [text[a:b] for a, b in itertools.pairwise(bounds)]


def test_what_follows_is_what_follows_the_whole():
  lm = model()
  one = lm.session(b"a'l")
  assert one.text == b"a'l"
  close(one.logprobs, lm.next_byte_logprobs(b"a'l"))
  assert one.push(b"l s") is one
  assert one.text == b"a'll s"
  close(one.logprobs, make_bench("gpt2").reference.next(b"a'll s"))
  one.push("\n").push(bytearray(b"\ns"))
  assert one.text == b"a'll s\n\ns"
  close(one.logprobs, make_bench("gpt2").reference.next(b"a'll s\n\ns"))


def test_bytes_may_be_pushed_before_anyone_asks():
  lm = model()
  one = lm.session().push(b"a").push(b"").push(b"'l")
  close(one.logprobs, lm.next_byte_logprobs(b"a'l"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=5), st.booleans())
def test_any_pieces_are_the_whole(cuts, asked):
  one = model().session()
  wanted = make_bench("gpt2").reference
  done = b""
  for piece in pieces(TEXT, cuts):
    one.push(piece)
    done += piece
    if asked:
      close(one.logprobs, wanted.next(done), 2e-5)
  assert one.text == TEXT
  close(one.logprobs, wanted.next(TEXT), 2e-5)


@pytest.mark.parametrize(
  "sizes", [(60,), (40, 20), (3, 45, 12), (20, 20, 20), (50, 1, 9)]
)
def test_long_pieces_are_the_whole_too(sizes):
  lm = model()
  one, done = lm.session(), 0
  for size in sizes:
    one.push(LONG[done : done + size])
    done += size
  close(one.logprobs, lm.next_byte_logprobs(LONG), 2e-5)
  fresh = lm.session(LONG)
  close(fresh.logprobs, one.logprobs, 2e-5)


def test_the_chain_rule_holds_along_a_session():
  lm, one = model(), model().session()
  total = []
  for byte in TEXT:
    total.append(one.logprobs[byte])
    one.push(bytes([byte]))
  close(total, lm.byte_logprobs(TEXT), 2e-5)


def test_a_fork_goes_on_apart():
  lm = model()
  one = lm.session(b"a'l")
  before = one.logprobs.copy()
  other = one.fork()
  np.testing.assert_array_equal(other.logprobs, before)
  other.push(b"l s")
  third = other.fork().push(b"\n")
  one.push(b"\n")
  other.push(b"s")
  for session, text in (
    (one, b"a'l\n"),
    (other, b"a'll ss"),
    (third, b"a'll s\n"),
  ):
    assert session.text == text
    close(session.logprobs, make_bench("gpt2").reference.next(text), 2e-5)


def test_a_fork_before_anything_is_asked():
  lm = model()
  one = lm.session(b"a'").push(b"l")
  other = one.fork()
  one.push(b"\n")
  close(other.logprobs, lm.next_byte_logprobs(b"a'l"))
  close(one.logprobs, lm.next_byte_logprobs(b"a'l\n"))


@pytest.mark.parametrize("asked", [False, True])
def test_a_sample_leaves_the_session_where_it_is(asked):
  lm, key = model(), jax.random.key(2)
  one = lm.session(b"a").push(b"'l")
  if asked:
    assert one.logprobs.shape == (257,)
  own = key[None]
  (wanted,) = lm.sample([b"a'l"], own, 30)
  for _ in range(2):
    sample = one.sample(key, 30)
    assert (sample.text, sample.reason) == (wanted.text, wanted.reason)
    close(sample.logprobs, wanted.logprobs, 2e-5)
    assert one.text == b"a'l"
  close(one.logprobs, lm.next_byte_logprobs(b"a'l"))
  assert one.sample(own, 30).text == wanted.text
  # And so it can be gone on with.
  one.push(sample.text)
  close(one.logprobs, lm.next_byte_logprobs(b"a'l" + sample.text), 2e-5)


def test_a_sample_of_a_session_takes_all_settings():
  lm, key = model(), jax.random.key(3)
  one = lm.session(b"a'l")
  for how in (
    {"greedy": True},
    {"temperature": 0.7, "top_p": 0.9, "exact": True},
    {"constraint": "[ls]{3}"},
    {"stop": "\n"},
  ):
    (wanted,) = lm.sample([b"a'l"], key[None], 20, **how)
    sample = one.sample(key, 20, **how)
    assert (sample.text, sample.reason) == (wanted.text, wanted.reason), how
    close(sample.logprobs, wanted.logprobs, 2e-5)


# Side by side ----------------------------------------------------------------

CONTEXTS = [b"", b"a'", b"s\n"]


def test_texts_side_by_side_go_on_unequally():
  lm, done = model(), list(CONTEXTS)
  one = lm.sessions(CONTEXTS)
  wanted = make_bench("gpt2").reference
  for more in (
    [b"a", b"", b"\ns'l"],
    [b"", b"", b""],
    [b"", b"l", b""],
    ["'", b"l s", b"l a"],
  ):
    one.push(more)
    done = [
      old + (new.encode() if isinstance(new, str) else new)
      for old, new in zip(done, more, strict=True)
    ]
    assert one.texts == done
    assert one.logprobs.shape == (3, 257)
    for row, text in zip(one.logprobs, done, strict=True):
      close(row, wanted.next(text), 2e-5)


def test_samples_side_by_side_are_those_of_the_model():
  lm, key = model(), jax.random.key(5)
  one = lm.sessions(CONTEXTS).push([b"a", b"l", b"s"])
  whole = [b"a", b"a'l", b"s\ns"]
  for found, wanted in zip(
    one.sample(key, 20), lm.sample(whole, key, 20), strict=True
  ):
    assert (found.text, found.reason) == (wanted.text, wanted.reason)
    close(found.logprobs, wanted.logprobs, 2e-5)
  assert one.texts == whole


def test_as_many_texts_as_there_are():
  one = model().sessions(CONTEXTS)
  for more in ([], [b"a"] * 2, [b"a"] * 4):
    with pytest.raises(ValueError, match="one text for each of the 3"):
      one.push(more)
  with pytest.raises(PromptError, match="one text where many are taken"):
    one.push(b"aaa")
  assert one.texts == CONTEXTS


# Mistakes --------------------------------------------------------------------


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (b"z", "0x7A"),
    (b"a\xff", "not UTF-8"),
    ("\ud800", "lone surrogate"),
    (None, "give bytes or str|a context is bytes"),
    ([3], "give bytes or str"),
    (b"a's'l" * 40, "context"),
  ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_what_cannot_follow_leaves_the_session_as_it_was(more, message, asked):
  one = make_bench("gpt2")
  short = dataclasses.replace(one.model, context_length=24)
  lm = dataclasses.replace(one, model=short).byte_lm()
  session = lm.session(b"a'l")
  if asked:
    assert session.logprobs.shape == (257,)
  with pytest.raises(PromptError, match=message):
    session.push(more)
  assert session.text == b"a'l"
  close(session.logprobs, one.reference.next(b"a'l"))
  session.push(b"l")
  close(session.logprobs, one.reference.next(b"a'll"))


@pytest.mark.parametrize("piece", [b"a's'l", b"a's'l" * 8])
def test_a_session_may_run_into_the_end_of_the_context(piece):
  one = make_bench("gpt2")
  short = dataclasses.replace(one.model, context_length=24)
  session = dataclasses.replace(one, model=short).byte_lm().session(b"a'l")
  done = b"a'l"
  with pytest.raises(PromptError, match="context"):
    for _ in range(20):
      session.push(piece)
      done += piece
  assert session.text == done
  close(session.logprobs, make_bench("gpt2").byte_lm().next_byte_logprobs(done))


def test_mistakes_in_draws_leave_the_session_as_it_was():
  one = model().session(b"a'l")
  key = jax.random.key(0)
  for call, message in (
    (lambda: one.sample(0, 4), r"write jax.random.key\(0\)"),
    (lambda: one.sample(key, 0), "max_bytes must be at least 1"),
    (lambda: one.sample(key, 4, temprature=2), "did you mean 'temperature'"),
    (lambda: one.sample(jax.random.split(key, 2), 4), "for each text: 1"),
  ):
    with pytest.raises(ValueError, match=message):
      call()
  close(one.logprobs, make_bench("gpt2").reference.next(b"a'l"))


# Whatever the tokenizer does -------------------------------------------------


@pytest.mark.parametrize(
  "name",
  [
    "prefix_space",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("llama2", "gemma", "composed", "metaspace_first")
    ),
  ],
)
def test_sessions_of_tokenizers_that_change_texts(name):
  bench = make_bench(name)
  lm = bench.byte_lm()
  text = max(bench.entry.texts or ("a b",), key=len).lstrip(" ")[:8].encode()
  one = lm.session()
  close(one.logprobs, lm.next_byte_logprobs(b""), 2e-5)
  for k, byte in enumerate(text, 1):
    one.push(bytes([byte]))
    close(one.logprobs, lm.next_byte_logprobs(text[:k]), 2e-5)


@pytest.mark.slow
def test_what_composes_with_what_was_there_begins_anew():
  lm = make_bench("composed").byte_lm()
  one = lm.session("be")
  close(one.logprobs, lm.next_byte_logprobs("be"))
  with pytest.warns(UserWarning, match="NFC"):
    one.push("\u0301")
  with pytest.warns(UserWarning, match="NFC"):
    close(one.logprobs, lm.next_byte_logprobs("be\u0301"), 2e-5)


def test_contexts_may_hold_token_ids():
  lm = model()
  (start,) = lm.tables.info.start_ids
  end = make_bench("gpt2").entry.ends[0]
  for context in ([start, b"a'"], [b"a", end, b"a'"], [b"a", end]):
    one = lm.session(context)
    close(one.logprobs, lm.next_byte_logprobs(context))
    one.push(b"l")
    close(one.logprobs, lm.next_byte_logprobs([*context, b"l"]))
    one.push(b"l")
    close(one.logprobs, lm.next_byte_logprobs([*context, b"ll"]))


@pytest.mark.slow
def test_a_packaged_model_that_puts_a_space_first():
  lm = byteprob.load("stdlib-spm")
  one = lm.session()
  close(one.logprobs, lm.next_byte_logprobs(b""), 1e-4)
  done = b""
  for piece in (b"i", b"mport", b" numpy as n", b"p\n"):
    one.push(piece)
    done += piece
    close(one.logprobs, lm.next_byte_logprobs(done), 1e-4)
  found = one.sample(jax.random.key(0), 20)
  (wanted,) = lm.sample([done], jax.random.key(0)[None], 20)
  assert found.text == wanted.text


# Ensembles -------------------------------------------------------------------


@pytest.mark.parametrize(
  "strategy",
  [
    "bayes",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("mixture", "product", "rank")
    ),
  ],
)
def test_an_ensembles_session_is_the_ensemble(strategy):
  both = ensemble(strategy)
  one = both.session(b"a'")
  done = b"a'"
  close(one.logprobs, both.next_byte_logprobs(done), 3e-5)
  # The second member has no l.
  for piece in (b"s", b"\n", b" a", b"s'"):
    one.push(piece)
    done += piece
    close(one.logprobs, both.next_byte_logprobs(done), 3e-5)
  other = one.fork().push(b"s")
  close(other.logprobs, both.next_byte_logprobs(done + b"s"), 3e-5)
  close(one.logprobs, both.next_byte_logprobs(done), 3e-5)
  key = jax.random.key(1)
  (wanted,) = both.sample([done], key[None], 16)
  sample = one.sample(key, 16)
  assert (sample.text, sample.reason) == (wanted.text, wanted.reason)
  close(sample.logprobs, wanted.logprobs, 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mixture", "bayes"])
def test_a_member_may_be_left_behind(strategy):
  """What one cannot spell, the others go on with."""
  both = ensemble(strategy)
  one = both.session(b"a'")
  for piece, text in ((b"l", b"a'l"), (b"l s", b"a'll s")):
    one.push(piece)
    close(one.logprobs, both.next_byte_logprobs(text), 3e-5)
  with pytest.raises(PromptError, match="0x7A"):
    one.push(b"z")
  assert one.text == b"a'll s"


# One numerical path ----------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=4), st.booleans())
def test_pinned_log_probs_are_the_same_bits_in_any_pieces(cuts, asked):
  lm = model()
  whole = lm.session(TEXT, pinned=True).logprobs
  one = lm.session(pinned=True)
  for piece in pieces(TEXT, cuts):
    one.push(piece)
    if asked:
      assert one.logprobs.shape == (257,)
  np.testing.assert_array_equal(one.logprobs, whole)
  close(whole, make_bench("gpt2").reference.next(TEXT), 2e-5)


def test_pinned_log_probs_are_the_same_bits_after_a_fork():
  lm = model()
  one = lm.session(TEXT[:6], pinned=True)
  rows = [one.logprobs]
  for byte in TEXT[6:]:
    rows.append(one.push(bytes([byte])).logprobs)
  again = lm.session(TEXT[:6], pinned=True)
  for k, byte in enumerate(TEXT[6:]):
    other = again.fork()
    np.testing.assert_array_equal(again.logprobs, rows[k])
    other.push(TEXT[6 + k :])
    np.testing.assert_array_equal(other.logprobs, rows[-1])
    again.push(bytes([byte]))
    again.sample(jax.random.key(k), 3)
  np.testing.assert_array_equal(again.logprobs, rows[-1])


@pytest.mark.slow
def test_pinned_log_probs_of_a_long_text_are_the_same_bits():
  lm = model()
  whole = lm.session(LONG, pinned=True).logprobs
  one = lm.session(pinned=True)
  for piece in pieces(LONG, [1, 33, 35]):
    one.push(piece)
  np.testing.assert_array_equal(one.logprobs, whole)
  close(whole, lm.next_byte_logprobs(LONG), 2e-5)


@pytest.mark.slow
def test_pinned_log_probs_of_an_ensemble_are_the_same_bits():
  both, text = ensemble("bayes"), b"a's \na"
  whole = both.session(text, pinned=True).logprobs
  one = both.session(b"a", pinned=True)
  for piece in (b"'", b"s \n", b"a"):
    one.push(piece)
  np.testing.assert_array_equal(one.logprobs, whole)
