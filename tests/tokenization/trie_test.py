"""Host: the bytes of tokens, read back from compiled tables."""

import numpy as np
import pytest
from benches import make_bench

from byteprob.tokenization import spell_all

NAMES = ["gpt2", "gemma", "every_byte", "wordpiece", "unigram_fallback"]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_spell_what_they_were_compiled_from(name):
  one = make_bench(name)
  spelled, ids = spell_all(one.tables), np.asarray(one.tables.token_id)
  assert spelled == [one.oracle.spelled[id_] for id_ in ids]
  assert spelled == sorted(spelled)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_are_padding_spell_nothing(name):
  one = make_bench(name)
  spelled, padded = spell_all(one.tables), spell_all(one.padded)
  assert padded == spelled + [b""] * (len(padded) - len(spelled))
