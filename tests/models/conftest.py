"""Host: strict JAX settings, and the real checkpoints, where there are any."""

import os
import pathlib

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_shapes_and_dtypes():
  """No array is widened or broadcast to a higher rank by itself."""
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    yield


def _file_named_by(variable: str) -> pathlib.Path:
  path = os.environ.get(variable)
  if not path:
    pytest.skip(f"${variable} does not name a GGUF file")
  return pathlib.Path(path)


@pytest.fixture(scope="session")
def smollm2_path() -> pathlib.Path:
  """SmolLM2-135M-Instruct, Q4_1, as GGUF."""
  return _file_named_by("BYTEPROB_TEST_SMOLLM2")


@pytest.fixture(scope="session")
def gemma3_path() -> pathlib.Path:
  """Gemma 3 270M, Q4_K_M, as GGUF."""
  return _file_named_by("BYTEPROB_TEST_GEMMA3")
