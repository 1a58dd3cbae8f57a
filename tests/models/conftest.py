"""Host: strict JAX settings, and the real checkpoints."""

import pathlib

import downloads
import jax
import pytest


@pytest.fixture(autouse=True)
def strict_shapes_and_dtypes():
  """No array is widened or broadcast to a higher rank by itself."""
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture(scope="session")
def smollm2_path() -> pathlib.Path:
  """SmolLM2-135M-Instruct, Q4_1, as GGUF."""
  return downloads.model("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3_path() -> pathlib.Path:
  """Gemma 3 270M, Q4_K_M, as GGUF."""
  return downloads.model("gemma3-270m")
