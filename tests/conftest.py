"""Host: strict settings, and a cache of our own."""

import os
import pathlib
import subprocess
import tempfile
import zlib

import jax
import pytest

from experiments import _runtime

SHARES = 30
"""Each commit's run takes one of so many shares of the slow tests, too."""


def _turn() -> int:
  """The share of the next commit's number."""
  done = subprocess.run(
    ["git", "rev-list", "--count", "HEAD"],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
  )
  return int(done.stdout) % SHARES if done.returncode == 0 else 0


def _share(nodeid: str) -> int:
  """The share that a test is in; it stays there."""
  # xdist adds the group after an @.
  return zlib.crc32(nodeid.split("@")[0].encode()) % SHARES


def _chosen(config, items):
  """Quick tests; and, where the whole suite runs, a share of the slow ones."""
  turn = os.environ.get("BYTEPROB_TESTS_TURN")
  if config.option.markexpr or any("::" in arg for arg in config.args):
    return items
  return [
    item
    for item in items
    if not item.get_closest_marker("slow")
    or (turn and _share(item.nodeid) == int(turn))
  ]


def pytest_configure(config):
  """What is compiled goes where no other run has left any.

  All workers, and the scripts that tests start, share it.
  """
  if "PYTEST_XDIST_WORKER" not in os.environ:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
      os.environ["BYTEPROB_TESTS_TURN"] = str(_turn())
    else:
      os.environ.pop("BYTEPROB_TESTS_TURN", None)
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


def pytest_collection_modifyitems(config, items):
  """Chooses tests; those of one tokenizer, or of one file, share a worker.

  So they share what is compiled for them.
  """
  chosen = _chosen(config, items)
  if len(chosen) < len(items):
    left = set(map(id, chosen))
    out = [item for item in items if id(item) not in left]
    config.hook.pytest_deselected(items=out)
    items[:] = chosen
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
