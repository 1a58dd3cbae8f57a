"""Host: what follows every prefix of a text, against the brute force."""

import fakes
import numpy as np
import pytest
from benches import close, make_bench

from byteprob import distributions
from byteprob.errors import PromptError

EOS = 256
NAMES = (
  "gpt2", "greedy_lookahead",
  *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("llama2", "unigram_lookahead")
  ),
)  # fmt: skip


def longest(one) -> bytes:
  return max(one.texts(), key=len)


def encoding(one, prefix: bytes):
  """The tokenizer's own tokens of a working text; None if there are none."""
  try:
    texts = one.oracle.texts(prefix)
  except UnicodeDecodeError:
    return None
  for ids in one.oracle.encode(texts):
    if one.oracle.bytes_of(ids) == prefix:
      return ids
  return None


def look(one, text: bytes) -> distributions.Distributions:
  """With tables as they are: tokens that pad them would count as barred."""
  return distributions.read(one.model, one.tables, one.query(text, False))


@pytest.fixture(params=NAMES, scope="module")
def found(request):
  one = make_bench(request.param)
  text = longest(one)
  return one, text, look(one, text)


def test_exact_is_the_brute_forces_after_every_prefix(found):
  one, text, read = found
  assert read.exact.shape == (len(text) + 1, 257)
  for at, row in enumerate(read.exact):
    close(row, one.reference.next(text[:at]))


def test_prompted_is_the_first_byte_of_the_next_token(found):
  one, text, read = found
  some = False
  for at, row in enumerate(read.prompted):
    ids = encoding(one, text[:at])
    if ids is None:
      assert np.isneginf(row).all() and np.isnan(read.leaked[at])
      continue
    logits = one.logits((*one.entry.start, *ids))
    share = np.exp(logits - np.logaddexp.reduce(logits))
    wanted = np.zeros(257)
    for token, piece in enumerate(one.oracle.spelled):
      if piece:
        wanted[piece[0]] += share[token]
    wanted[EOS] = share[one.oracle.ends].sum()
    with np.errstate(divide="ignore"):
      close(row, np.log(wanted))
    kids, canonical = one.oracle.law(ids)
    kept = share[kids].sum() + (wanted[EOS] if canonical else 0.0)
    assert abs(read.leaked[at] - (wanted.sum() - kept)) < 1e-5
    some = True
  assert some


def test_unfinished_covers_are_no_encodings_of_what_they_spell(found):
  one, text, read = found
  for at in range(1, len(text) + 1):
    covers = one.reference.covers(text[:at])
    every = np.exp(np.logaddexp.reduce(list(covers.values())))
    lost = sum(np.exp(v) for c, v in covers.items() if not one.oracle.law(c)[1])
    assert abs(read.unfinished[at] - lost / every) < 1e-5


def test_some_covers_are_unfinished():
  one = make_bench("gpt2")
  texts = sorted(one.texts(), key=len)[-8:]
  most = max(look(one, t).unfinished.max() for t in texts)
  assert most > 0.01


def test_boundaries_are_those_of_the_encoding(found):
  one, text, read = found
  ids = encoding(one, text)
  if ids is not None:
    sizes = [len(one.oracle.spelled[token]) for token in ids]
    ends = {0, *np.cumsum(sizes).tolist()}
    assert {at for at, back in enumerate(read.boundary) if back == 0} == ends
  assert (np.diff(read.boundary)[read.boundary[1:] > 0] == 1).all()


def test_a_text_in_many_calls(monkeypatch):
  one = make_bench("gpt2")
  text = longest(one)
  whole = look(one, text)
  monkeypatch.setattr("byteprob.scoring.MAX_ROWS", 4)
  parts = look(one, text)
  for a, b in zip(whole, parts, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "prefix_space"])
def test_users_texts_are_told_as_next_byte_tells_them(name):
  one = make_bench(name)
  lm = one.byte_lm()
  text = longest(one)[1:6]
  read = lm.distributions(text)
  nexts = lm.next_byte_logprobs_batch([text[:k] for k in range(len(text) + 1)])
  assert len(read.exact) == len(text) + 1
  # An empty text has no prefix space, which `next_byte` heeds.
  for at in range(one.entry.prefixed, len(text) + 1):
    close(read.exact[at], nexts[at], 2e-5)


def test_numbers_that_are_none():
  one = make_bench("gpt2")
  model, _ = fakes.model(one.model.vocab_size, scale=np.nan)
  with pytest.raises(PromptError, match="not numbers"):
    distributions.read(model, one.padded, one.query(b"ab"))
