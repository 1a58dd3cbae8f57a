"""Host: one call loads any checkpoint as a `Model`."""

import gguf_writing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from byteprob import models


def _dtypes(tree):
  return jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_either_format_loads_as_a_model(dtype, tmp_path):
  torch_model = tiny.save("llama", tmp_path / "hf")
  gguf_path = gguf_writing.write_model(tmp_path / "x.gguf", torch_model)
  ids = jnp.asarray(tiny.tokens(batch=2, length=6))
  row = jnp.broadcast_to(jnp.arange(6)[None], ids.shape)
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((6, 8), bool)), (2, 6, 8))
  want = tiny.logits(torch_model, np.asarray(ids))
  tolerance = {"float32": 1e-5, "bfloat16": 0.05}[dtype]
  for path in (tmp_path / "hf", str(gguf_path)):
    model = models.load_model(path, dtype)
    assert model.vocab_size == tiny.VOCAB
    assert model.context_length == 64
    assert model.params["head"]["weight"].dtype == dtype
    cache = model.init_cache(2, 8)
    assert all(x.shape[:2] == (2, 8) for x in jax.tree.leaves(cache))
    logits, after = jax.jit(model.extend)(
      model.params, cache, ids, row, row, mask
    )
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, cache)
    assert _dtypes(after) == _dtypes(cache)
    error = np.abs(np.asarray(logits) - want)
    assert np.mean(error) < tolerance * np.abs(want).max()


def test_public_names_exist():
  assert all(hasattr(models, name) for name in models.__all__)
