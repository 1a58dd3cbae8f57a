"""Host: the byte-level model as users call it, against the brute force."""

import dataclasses
import functools
import json

import fakes
import jax
import numpy as np
import oracle
import pytest
import tokenizers
from benches import close, make_bench

import byteprob
from byteprob import lm
from byteprob.engine import score
from byteprob.errors import CheckpointError, PromptError
from byteprob.tokenization import load_tables

EOS = 256
NAMES = (
  "gpt2",
  "prefix_space",
  pytest.param("llama2", marks=pytest.mark.slow),
  pytest.param("composed", marks=pytest.mark.slow),
)
GEMMA = pytest.param("gemma", marks=pytest.mark.slow)
BATCH = 16


def in_batches(call, *columns):
  """Calls with as many rows at a time: few sizes are compiled."""
  rows = list(zip(*columns, strict=True))
  found = []
  for first in range(0, len(rows), BATCH):
    part = rows[first : first + BATCH]
    filled = part + part[-1:] * (BATCH - len(part))
    found += call(*map(list, zip(*filled, strict=True)))[: len(part)]
  return found


def users(one) -> list[bytes]:
  """Users' texts: what follows the space that the tokenizer puts first."""
  texts = one.texts()
  if one.entry.prefixed:
    texts = [b"", *(t[1:] for t in texts if t.startswith(b" ") and len(t) > 1)]
  if one.spec.prefix == "unless_space":
    # The tokenizer takes " a" for "a".
    texts = [text for text in texts if not text.startswith(b" ")]
  return texts[:BATCH]


def working(one, text: bytes) -> bytes:
  return b" " * one.entry.prefixed + text


def wanted_next(one, text: bytes, reference=None) -> np.ndarray:
  """The law after a user's text."""
  reference = reference or one.reference
  if text or not one.entry.prefixed:
    return reference.next(working(one, text))
  # The space is not the user's: what it costs is part of the first byte's.
  found = reference.next(b" ") + reference.total(b" ")
  found[EOS] = np.logaddexp(found[EOS], reference.next(b"")[EOS])
  return found


def wanted_each(one, text: bytes) -> np.ndarray:
  """Log-prob of each byte of a user's text."""
  values = one.reference.each(working(one, text))
  if one.entry.prefixed and text:
    values = np.concatenate([[values[0] + values[1]], values[2:]])
  return values[: len(text)]


@pytest.mark.parametrize("name", NAMES)
def test_next_byte_is_the_brute_forces_and_sums_to_one(name):
  one = make_bench(name)
  texts = users(one)
  found = in_batches(one.byte_lm().next_byte_logprobs_batch, texts)
  for text, row in zip(texts, found, strict=True):
    assert row.dtype == np.float32 and row.shape == (257,)
    close(row, wanted_next(one, text), 2e-5)
    assert abs(np.logaddexp.reduce(row.astype(np.float64))) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_the_brute_forces(name):
  one = make_bench(name)
  texts = [text for text in users(one) if text]
  found = in_batches(one.byte_lm().byte_logprobs_batch, texts)
  for text, row in zip(texts, found, strict=True):
    assert row.dtype == np.float32
    close(row, wanted_each(one, text), 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_whole_texts_are_exact_without_what_does_not_lead_to_their_end(name):
  one = make_bench(name)
  model = one.byte_lm()
  texts = [text for text in users(one) if text]
  totals = in_batches(model.logprob_batch, texts)
  each = in_batches(
    functools.partial(model.byte_logprobs_batch, eps=0.99), texts
  )
  for text, total, values in zip(texts, totals, each, strict=True):
    wanted = wanted_each(one, text)
    assert abs(total - wanted.sum()) < 2e-5
    # Up to each byte a lower bound; all of it in the end.
    gap = np.cumsum(wanted) - np.cumsum(values, dtype=np.float64)
    assert (gap > -2e-5).all() and abs(gap[-1]) < 2e-5
  if name == "gpt2":
    gaps = [wanted_each(one, t) - v for t, v in zip(texts, each, strict=True)]
    assert max(np.abs(gap).max() for gap in gaps) > 1e-3


def test_windows_and_contexts_of_whole_texts(monkeypatch):
  one = make_bench("gpt2")
  model, text = one.byte_lm(), one.texts()[-1] * 6
  for how in ({}, {"window": 12}, {"window": 16, "stride": 4}):
    wanted = model.byte_logprobs(text, b"a", **how).sum(dtype=np.float64)
    assert abs(model.logprob(text, b"a", **how) - wanted) < 1e-4
  assert model.logprob(b"") == 0.0
  for eps in (1.0, -0.1, "x"):
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\)"):
      model.byte_logprobs(text, eps=eps)
  trusting = lm.ByteLM(model.model, model.tables, "trust_model")
  wanted = trusting.byte_logprobs(text).sum(dtype=np.float64)
  assert abs(trusting.logprob(text) - wanted) < 1e-4
  with pytest.raises(ValueError, match="validity='exact'"):
    trusting.byte_logprobs(text, eps=0.1)


def test_chunks_of_pruned_texts_meet(monkeypatch):
  one = make_bench("gpt2")
  model, text = one.byte_lm(), b"a's all as  sa'll\n\nas l" * 6
  wanted = model.logprob(text)
  sizes = {0: (32, 32)}
  monkeypatch.setattr(score, "_sizes", lambda _, eps: sizes.get(eps, (4, 40)))
  exact = model.byte_logprobs(text)
  assert abs(model.logprob(text) - wanted) < 1e-4
  assert abs(exact.sum(dtype=np.float64) - wanted) < 1e-4
  values = model.byte_logprobs(text, eps=0.99)
  gap = np.cumsum(exact, dtype=np.float64) - np.cumsum(values, dtype=np.float64)
  assert (gap > -1e-4).all() and abs(gap[-1]) < 1e-4
  assert gap.max() > 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_rule_holds_wherever_a_text_is_cut(name):
  one = make_bench(name)
  model = one.byte_lm()
  # Of all lengths, so that bytes, characters and pieces are cut.
  texts = sorted(users(one), key=len)[-1:]
  cuts = [(text[:at], text[at:]) for text in texts for at in range(len(text))]
  before, after = zip(*cuts, strict=True)
  rows = in_batches(model.byte_logprobs_batch, after, before)
  nexts = in_batches(model.next_byte_logprobs_batch, before)
  whole = dict(
    zip(texts, in_batches(model.byte_logprobs_batch, texts), strict=True)
  )
  for (start, rest), row, following in zip(cuts, rows, nexts, strict=True):
    wanted = whole[start + rest][len(start) :]
    assert row.shape == (len(rest),)
    np.testing.assert_allclose(row, wanted, rtol=0, atol=2e-5)
    np.testing.assert_allclose(following[rest[0]], row[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_covers_are_the_brute_forces_and_add_up(name):
  one = make_bench(name)
  model = one.byte_lm()
  # One length, so that one size is compiled.
  for text in sorted(users(one), key=len)[-4:]:
    found = model.covers(text)
    wanted = one.reference.covers(working(one, text))
    assert [value for _, value in found] == sorted(
      (value for _, value in found), reverse=True
    )
    assert {ids for ids, _ in found} == set(wanted)
    assert len(found) == len(wanted)
    for ids, value in found:
      assert abs(value - wanted[ids]) < 5e-5
    total = np.logaddexp.reduce([value for _, value in found])
    assert abs(total - one.reference.total(working(one, text))) < 5e-5


def test_nothing_is_covered_by_nothing():
  assert make_bench("gpt2").byte_lm().covers(b"") == [((), 0.0)]


@pytest.mark.parametrize(
  "name",
  ["gpt2", "llama2", "prefix_space", "composed", "gemma", "metaspace_first"],
)
def test_encode_is_the_tokenizers_own(name):
  one = make_bench(name)
  model = one.byte_lm()
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(one.entry.json))
  tokenizer.encode_special_tokens = False
  special = tokenizer.token_to_id("</s>")
  for text in one.entry.texts or ("a b",):
    own = tokenizer.encode(text, add_special_tokens=False).ids
    assert model.encode(text) == (*one.entry.start, *own)
    # An id between two texts is where the tokenizer sees a special token.
    for mixed, whole in (
      ([text, special, text], f"{text}</s>{text}"),
      ([text, special], f"{text}</s>"),
    ):
      own = tokenizer.encode(whole, add_special_tokens=False).ids
      assert model.encode(mixed) == (*one.entry.start, *own), mixed
  assert model.encode([special]) == (special,)


def test_encode_needs_whole_characters():
  one = make_bench("every_byte")
  with pytest.raises(PromptError, match="stops inside a character"):
    one.byte_lm().encode(b"a\xc3")


@pytest.mark.parametrize("name", ["gpt2", GEMMA])
def test_ids_are_conditioned_on_as_they_are(name):
  one = make_bench(name)
  (end,) = one.entry.ends
  odd = next(k for k, piece in enumerate(one.entry.spelled) if piece)
  (own,) = one.oracle.encode(["ab" if name == "gemma" else "as"])
  context = [one.oracle.bytes_of(own), odd, end, odd]
  prefix = (*one.entry.start, *own, odd, end, odd)
  reference = oracle.Reference(one.oracle, one.logits, prefix)
  model = one.byte_lm()
  found = model.next_byte_logprobs_batch([[*context, b"a\n"]] * BATCH)[0]
  close(found, reference.next(b"a\n"), 2e-5)
  found = model.byte_logprobs_batch([b"a\n\na"] * BATCH, [context] * BATCH)[0]
  close(found, reference.each(b"a\n\na"), 2e-5)
  # Ids inside a text are conditioned on too, and not scored.
  text = [b"a", end, b"a\n"]
  found = model.byte_logprobs_batch([text] * BATCH)[0]
  (first,) = one.oracle.encode(["a"])
  prefix = (*one.entry.start, *first, end)
  rest = oracle.Reference(one.oracle, one.logits, prefix).each(b"a\n")
  close(found, np.concatenate([one.reference.each(b"a"), rest]), 2e-5)


def test_all_ways_of_writing_a_context_are_one():
  one = make_bench("every_byte")
  model = one.byte_lm()
  ways = ["é a", "é a".encode(), bytearray("é a".encode()), ["é", b" ", "a"]]
  ways += [[b"\xc3", b"\xa9 a"], [*one.entry.start, "é a"]]
  rows = in_batches(model.next_byte_logprobs_batch, ways)
  for row in rows[1:]:
    np.testing.assert_array_equal(row, rows[0])


def test_a_special_tokens_text_is_text():
  one = make_bench("every_byte")
  spelled = one.byte_lm().encode("</s>")[1:]
  assert one.entry.ends[0] not in spelled
  assert one.oracle.bytes_of(spelled) == b"</s>"


def test_batches_are_singles_side_by_side():
  one = make_bench("llama3")
  model = one.byte_lm()
  texts = sorted(one.texts(), key=len)[-6:]
  rows = in_batches(model.next_byte_logprobs_batch, texts)
  scored = in_batches(model.byte_logprobs_batch, texts)
  for text, row, each in zip(texts, rows, scored, strict=True):
    np.testing.assert_allclose(
      model.next_byte_logprobs(text), row, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
      model.byte_logprobs(text), each, rtol=0, atol=1e-5
    )


def test_nothing_is_scored_of_nothing():
  model = make_bench("gpt2").byte_lm()
  assert model.byte_logprobs(b"").shape == (0,)
  assert model.byte_logprobs([1]).shape == (0,)
  assert model.byte_logprobs_batch([]) == []
  assert model.next_byte_logprobs_batch([]) == []


@pytest.mark.parametrize("name", ["gpt2", GEMMA])
def test_trusting_the_model(name):
  one = make_bench(name)
  texts = users(one)
  trusting = one.byte_lm(validity="trust_model")
  reference = oracle.Reference(
    one.oracle, one.logits, one.entry.start, trust_model=True
  )
  found = in_batches(trusting.next_byte_logprobs_batch, texts)
  for text, row in zip(texts, found, strict=True):
    close(row, wanted_next(one, text, reference), 2e-5)


def test_the_empty_text_under_a_space_that_is_always_put():
  """No text is a space alone: only the root may end there."""
  one = make_bench("llama2")
  found = one.byte_lm().next_byte_logprobs_batch([b""] * BATCH)[0]
  close(found[EOS], one.reference.next(b"")[EOS], 2e-5)
  # A space of the user's own comes after the one that is put.
  own = one.byte_lm().byte_logprobs_batch([b" a"] * BATCH)[0]
  close(own.sum(), one.reference.total(b"  a"), 2e-5)


def test_a_space_that_is_put_unless_there_is_one():
  """With it and without it a text is the same."""
  one = make_bench("prefix_space")
  model = one.byte_lm()
  rows = model.next_byte_logprobs_batch([b" a", b"a"] * (BATCH // 2))
  np.testing.assert_array_equal(rows[0], rows[1])
  rows = model.byte_logprobs_batch([b"a"] * BATCH, [b" ", b""] * (BATCH // 2))
  np.testing.assert_array_equal(rows[0], rows[1])
  close(rows[0].sum(), one.reference.total(b" a"), 2e-5)


# What composes --------------------------------------------------------------


def test_what_the_normal_form_never_holds_is_impossible():
  one = make_bench("composed")
  model = one.byte_lm()
  after_e, after_half, after_b = in_batches(
    model.next_byte_logprobs_batch, [b"e", b"e\xcc", b"\xc3\x81\xcc"]
  )
  assert np.isfinite(after_e[0xCC])
  assert np.isneginf(after_half[0x81]) and np.isfinite(after_half[0xA9])
  # An acute stays where there is nothing to compose with.
  assert np.isfinite(after_b[0x81])


def test_what_composes_is_composed_with_a_warning():
  one = make_bench("composed")
  model = one.byte_lm()
  with pytest.warns(UserWarning, match=r"Unicode's NFC\); it has 3 bytes"):
    found = model.next_byte_logprobs_batch([b"be\xcc\x81"] * BATCH)[0]
  wanted = model.next_byte_logprobs_batch([b"b\xc3\xa9"] * BATCH)[0]
  np.testing.assert_array_equal(found, wanted)
  with pytest.warns(UserWarning, match="NFC"):
    assert model.byte_logprobs(b"be\xcc\x81").shape == (3,)


def test_a_text_must_not_change_its_contexts_end():
  model = make_bench("composed").byte_lm()
  with (
    pytest.warns(UserWarning, match="NFC"),
    pytest.raises(PromptError, match="begin the text after it"),
  ):
    model.byte_logprobs(b"\xcc\x81b", b"be")
  with pytest.warns(UserWarning, match="NFC"):
    found = model.byte_logprobs(b"e\xcc\x81", b"b")
  assert found.shape == (2,)


def test_a_space_mark_is_a_space():
  model = make_bench("gemma").byte_lm()
  with pytest.warns(UserWarning, match=r"U\+2581 as a space"):
    found = model.byte_logprobs("a▁b")
  np.testing.assert_array_equal(found, model.byte_logprobs("a b"))


# What is refused ------------------------------------------------------------


def test_what_cannot_be_expressed_is_refused():
  few = make_bench("gpt2").byte_lm()
  with pytest.raises(PromptError, match=r"0x7A at byte 1 .*leave it out"):
    few.next_byte_logprobs(b"az")
  for call in (few.next_byte_logprobs, few.byte_logprobs, few.covers):
    with pytest.raises(PromptError, match=r'not UTF-8 at byte 1 .*utf8="any"'):
      call(b"a\xff")
  with pytest.raises(PromptError, match="token 9999: ids go from 0"):
    few.next_byte_logprobs([9999])


def test_a_text_past_the_models_context():
  model, _ = fakes.model(64, context_length=4)
  short = lm.ByteLM(model, make_bench("gpt2").padded)
  assert np.isfinite(short.byte_logprobs(b"l")).all()
  with pytest.raises(PromptError, match="context has 4; shorten it"):
    short.next_byte_logprobs(b"a's l as'l ")
  with pytest.raises(PromptError, match="context has 4; shorten it"):
    short.next_byte_logprobs([1] * 6)


def test_logits_that_are_no_numbers():
  one = make_bench("gpt2")
  params = {**one.model.params, "head": one.model.params["head"] * np.nan}
  broken = dataclasses.replace(one.model, params=params)
  model = lm.ByteLM(broken, one.padded)
  for call in (model.next_byte_logprobs, model.byte_logprobs, model.covers):
    with pytest.raises(PromptError, match=r"not numbers \(NaN\)"):
      call(b"al")
  with pytest.raises(PromptError, match=r"not numbers \(NaN\)"):
    model.sample([b"al"], jax.random.key(0), 4)
  # What is read many bytes at a time, and kept.
  with pytest.raises(PromptError, match=r"not numbers \(NaN\)"):
    model.sample([b"a's l " * 8], jax.random.key(0), 4)
  with pytest.raises(PromptError, match=r"not numbers \(NaN\)"):
    _ = model.session(b"al").logprobs


def test_a_model_of_another_tokenizer():
  model, _ = fakes.model(3)
  with pytest.raises(CheckpointError, match="do not belong together"):
    lm.ByteLM(model, make_bench("gpt2").tables)


def test_options_that_are_none():
  one = make_bench("gpt2")
  with pytest.raises(ValueError, match="'exact' or 'trust_model'"):
    lm.ByteLM(one.model, one.tables, validity="fast")
  with pytest.raises(ValueError, match="'strict' or 'any'"):
    load_tables("stdlib-bpe", utf8="loose")
  with pytest.raises(ValueError, match="'strict' or 'any'"):
    byteprob.load(utf8="loose")


def test_what_comes_before_a_text():
  one = make_bench("gpt2")

  def start_ids(end=(), **changes):
    info = dataclasses.replace(one.tables.info, **changes)
    tables = dataclasses.replace(
      one.tables, info=info, end_ids=np.array(end, np.int32)
    )
    return lm.ByteLM(one.model, tables).tables.info.start_ids

  assert start_ids(start_ids=(3, 4), end=[5]) == (3, 4)
  names = (("<|endoftext|>", 2), ("<|im_start|>", 1))
  assert start_ids(start_ids=(), special=names, end=[5]) == (2,)
  assert start_ids(start_ids=(), special=(("x", 1),), end=[5, 6]) == (5,)
  with pytest.raises(CheckpointError, match="Begin every context with"):
    start_ids(start_ids=(), special=())


@pytest.mark.parametrize(
  "name",
  [
    "stdlib-bpe",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("stdlib-spm", "python-fim")
    ),
  ],
)
def test_a_packaged_model(name):
  model = byteprob.load(name)
  text = b"def main():\n  return 'caf\xc3\xa9"
  first, whole = model.byte_logprobs_batch([text[:-1], text])
  np.testing.assert_allclose(whole[:-1], first, rtol=0, atol=1e-4)
  row = model.next_byte_logprobs(text[:-1])
  assert abs(np.logaddexp.reduce(row.astype(np.float64))) < 1e-5
  assert abs(row[0xA9] - whole[-1]) < 1e-4
  # It has learnt Python.
  assert whole[:-2].mean() > -2


def test_a_leading_space_is_the_tokenizers_own():
  one = make_bench("prefix_space")
  lm = one.byte_lm()
  with pytest.warns(UserWarning, match="begins with a space"):
    found = lm.next_byte_logprobs(b" a")
  close(found, lm.next_byte_logprobs(b"a"))
  with pytest.warns(UserWarning, match="begins with a space"):
    assert len(lm.byte_logprobs(b" ab")) == 2
