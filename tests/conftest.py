"""Host: strict settings, and a cache of our own."""

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
  """Compiled tables go where no other run has left any."""
  before = os.environ.get("BYTEPROB_CACHE")
  os.environ["BYTEPROB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
  yield
  if before is None:
    del os.environ["BYTEPROB_CACHE"]
  else:
    os.environ["BYTEPROB_CACHE"] = before


@pytest.fixture(autouse=True)
def strict_ranks():
  """No array is broadcast to a higher rank by itself."""
  with jax.numpy_rank_promotion("raise"):
    yield
