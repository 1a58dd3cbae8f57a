"""Host: what is compiled is kept, where its user would have it."""

import os
import subprocess
import sys

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
