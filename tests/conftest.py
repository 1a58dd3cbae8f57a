"""Host: strict settings, and a cache of our own."""

import os
import tempfile

import jax
import pytest

from experiments import _runtime


def pytest_configure(config):
  """What is compiled goes where no other run has left any.

  All workers, and the scripts that tests start, share it.
  """
  if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="byteprob-tests-")
    config.add_cleanup(cache.cleanup)
    os.environ["BYTEPROB_CACHE"] = cache.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{cache.name}/xla"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    # The same where jax was imported before.
    jax.config.update(
      "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_collection_modifyitems(items):
  """Tests of one tokenizer, or of one file, share a worker.

  So they share what is compiled for them.
  """
  for item in items:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    group = given.get("case") or given.get("name") or item.path.name
    item.add_marker(pytest.mark.xdist_group(str(group).split()[0]))


@pytest.fixture(autouse=True)
def quick_to_compile(request, monkeypatch):
  """Quick tests, and the scripts that they start, optimize less.

  Nearly all of their time is compiling, and a third of that is saved. The slow
  tests run what users run, and the benchmarks hold that against itself over
  tens of thousands of bytes.
  """
  slow = request.node.get_closest_marker("slow")
  jax.config.update("jax_disable_most_optimizations", not slow)
  if not slow:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def few_mappings():
  """Compiled code is forgotten before the system allows no more of it."""
  yield
  _runtime.forget_compiled()


@pytest.fixture(autouse=True)
def strict_ranks():
  """No array is broadcast to a higher rank by itself."""
  with jax.numpy_rank_promotion("raise"):
    yield
