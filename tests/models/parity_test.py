"""Host: every family's logits equal those of transformers' own models."""

import numpy as np
import pytest
import tiny_models as tiny

from byteprob import models

_TOLERANCE = 1e-5


@pytest.mark.parametrize("name", tiny.CASES)
def test_logits_equal_those_of_transformers(name, tmp_path):
  torch_model = tiny.save(name, tmp_path)
  config, params = models.load_hf(tmp_path)
  ids = tiny.tokens()
  want = tiny.logits(torch_model, ids)
  got = tiny.forward(config, params, ids)
  assert np.std(want) > 0.3
  np.testing.assert_allclose(got, want, atol=_TOLERANCE * np.abs(want).max())
