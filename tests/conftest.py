"""Host: strict settings, and a cache of our own."""

import os

import jax
import pytest


def pytest_collection_modifyitems(items):
  """Tests of one tokenizer, or of one file, share a worker.

  So they share what is compiled for them.
  """
  for item in items:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    group = given.get("case") or given.get("name") or item.path.name
    item.add_marker(pytest.mark.xdist_group(str(group).split()[0]))


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
