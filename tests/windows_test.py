"""Long texts in parts: every byte once, with the context that was promised."""

import re

import numpy as np
import pytest
from benches import close, make_bench
from hypothesis import given
from hypothesis import strategies as st

from byteprob.errors import PromptError
from byteprob.windows import parts


@given(st.text(max_size=60), st.integers(8, 30), st.integers(4, 30), st.data())
def test_every_byte_is_scored_once(text, window, stride, data):
  text, stride = text.encode(), min(stride, window)
  found = list(parts(text, window, stride))
  assert b"".join(text[p.first : p.stop] for p in found) == text
  for one in found:
    assert one.start <= one.first < one.stop
    assert one.stop - one.start <= window + 3
    for at in one:
      text[:at].decode()
  for one in found[1:]:
    assert one.stop - one.first <= stride + 3
    # All but the last have the whole window.
    if one.stop < len(text):
      assert one.stop - one.start >= window - 3


def test_bytes_that_are_no_characters_are_cut_all_the_same():
  text = b"\x80" * 50
  found = list(parts(text, 16, 8))
  assert b"".join(text[p.first : p.stop] for p in found) == text


@pytest.mark.parametrize(
  ("window", "stride", "words"),
  [
    (7, 4, "window must be at least 8 bytes, not 7"),
    (16, 3, "stride must be 4 to 16 (window), not 3"),
    (16, 17, "stride must be 4 to 16 (window), not 17"),
    (16.0, 8, "window must be a number of bytes, not 16.0"),
    (16, True, "stride must be a number of bytes, not True"),
  ],
)
def test_sizes_that_make_no_sense(window, stride, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    list(parts(b"abc", window, stride))


def test_windows_are_scores_of_the_parts():
  one = make_bench("gpt2")
  lm = one.byte_lm()
  text, context = b"a's  a\n\nal l'll aa \n 's all", b"sa"
  found = lm.byte_logprobs(text, context, window=12, stride=6)
  assert len(found) == len(text)
  whole = context + text
  asked = [p for p in parts(whole, 12, 6) if p.stop > 2]
  each = lm.byte_logprobs_batch(
    [whole[max(p.first, 2) : p.stop] for p in asked],
    [whole[p.start : max(p.first, 2)] for p in asked],
  )
  np.testing.assert_array_equal(found, np.concatenate(each))
  # A window that holds everything changes nothing.
  close(
    lm.byte_logprobs(text, context, window=64),
    lm.byte_logprobs(text, context),
    2e-6,
  )


def test_a_stride_needs_a_window():
  lm = make_bench("gpt2").byte_lm()
  with pytest.raises(ValueError, match="give window, too"):
    lm.byte_logprobs(b"a", stride=8)
  with pytest.raises(PromptError, match="bytes or str"):
    lm.byte_logprobs([b"a", 1], window=8)


def test_a_text_longer_than_the_context_is_refused_and_scored_in_windows():
  one = make_bench("gpt2")
  model = one.model.__class__(**{**vars(one.model), "context_length": 16})
  lm = type(one.byte_lm())(model, one.padded)
  text = b"al " * 200
  with pytest.raises(PromptError, match="window="):
    lm.byte_logprobs(text)
  assert np.isfinite(lm.byte_logprobs(text, window=12, stride=6)).all()
