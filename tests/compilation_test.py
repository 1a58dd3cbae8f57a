"""Host: what is compiled is kept, where its user would have it."""

import gc
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from byteprob import compilation

_OURS = (
  "BYTEPROB_COMPILATION_CACHE",
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)

_CALL = """
import logging
import jax
# Compiled before there is a cache.
jax.numpy.ones(3).sum().block_until_ready()
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
import byteprob
byteprob.load().next_byte_logprobs(b"import ")
"""


def _run(code: str, cache, **environment: str) -> str:
  """What a process says that has no settings but these."""
  kept = {key: os.environ[key] for key in os.environ if key not in _OURS}
  kept |= {"BYTEPROB_CACHE": str(cache)} | environment
  done = subprocess.run(
    [sys.executable, "-c", code], env=kept, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout + done.stderr


def _kept(cache) -> set[str]:
  return {path.name for path in (cache / "xla").rglob("*-cache")}


def test_a_process_finds_what_another_has_compiled(tmp_path):
  first = _run(_CALL, tmp_path)
  kept = _kept(tmp_path)
  assert kept
  assert "Writing" in first
  second = _run(_CALL, tmp_path)
  assert _kept(tmp_path) == kept
  assert "Writing" not in second
  assert "hit" in second


_ENABLE = """
import jax
from byteprob import compilation
compilation.enable_cache()
jax.jit(lambda x: x + 1)(3).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def test_the_switch_turns_it_off(tmp_path):
  said = _run(_ENABLE, tmp_path, BYTEPROB_COMPILATION_CACHE="0")
  assert said.strip() == "None"
  assert not list(tmp_path.iterdir())


def test_the_users_own_directory_is_respected(tmp_path):
  own = tmp_path / "own"
  said = _run(
    _ENABLE,
    tmp_path / "ours",
    JAX_COMPILATION_CACHE_DIR=str(own),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )
  assert said.strip() == str(own)
  assert list(own.iterdir())
  assert not (tmp_path / "ours").exists()


def test_who_wants_no_cache_has_none(tmp_path):
  said = _run(_ENABLE, tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
  assert said.strip() == "None"
  assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_told_of_and_no_more(tmp_path):
  (tmp_path / "file").write_text("")
  said = _run(_ENABLE, tmp_path / "file")
  assert "What is compiled is not kept" in said
  assert said.startswith("None\n")
  assert said.count("Warning") == 1


def test_a_program_takes_little_or_much():
  program = compilation.Program(lambda tree: jax.tree.map(jnp.sin, tree))
  for count in (2, 2 * compilation._SMALL):
    tree = list(np.linspace(0, 1, count, dtype=np.float32))
    np.testing.assert_allclose(program(tree), np.sin(tree), rtol=1e-6)
    program(tree)
  assert program._cache_size() == 2


def test_options_that_xla_does_not_have_are_left_out(monkeypatch):
  known = {"xla_backend_optimization_level": 1}
  monkeypatch.setattr(compilation, "_QUICK", known | {"xla_no_such": True})
  compilation._quick_options.cache_clear()
  try:
    assert compilation._quick_options() == known
  finally:
    compilation._quick_options.cache_clear()


def test_the_collector_is_back_after_a_run():
  during = []

  def traced(x):
    during.append(gc.isenabled())
    return x

  compilation.Program(traced)(1.0)
  assert during == [False]
  assert gc.isenabled()
