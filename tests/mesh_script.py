"""Device: the same on one device and on a mesh of eight; run by mesh_test.py.

In a process of its own: the number of devices is set before any is used
(JAX_NUM_CPU_DEVICES=8).
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
from benches import close
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import byteprob
from byteprob import engine, models
from byteprob.models import converted, decoder, sharding
from byteprob.tokenization import load_tables
from configs.train_lm import get_config
from experiments import _data, _export, _lm

TEXTS = ["import numpy as np\n", "def f(é):\n  return 'ab"]


def config(vocab_size: int) -> models.DecoderConfig:
  """A tiny decoder with every kind of parameter that is split."""
  layer = models.Layer(rope=models.Rope(theta=1e4))
  return models.DecoderConfig(
    vocab_size=vocab_size,
    context_length=256,
    width=32,
    heads=8,
    kv_heads=4,
    head_dim=8,
    mlp_width=48,
    layers=(layer, layer),
    qkv_bias=True,
    mlp_bias=True,
    attention_scale=0.35,
  )


def lms(
  seed: int = 0, shape: str = "data:2,model:4"
) -> tuple[byteprob.ByteLM, byteprob.ByteLM]:
  """The same model on a mesh and on one device."""
  tables = load_tables("stdlib-bpe")
  vocab = config(4096)
  params = decoder.init_params(vocab, jax.random.key(seed))
  # As they come the logits are all alike, and tell nothing.
  params = jax.tree.map(lambda leaf: 4 * leaf, params)
  mesh = byteprob.make_mesh(shape)
  one = byteprob.ByteLM(decoder.make_model(vocab, params), tables)
  spread = byteprob.ByteLM(sharding.make_model(vocab, params, mesh), tables)
  return spread, one


def check_scores() -> None:
  """Every part lies where it should, and the bytes' log-probs are the same."""
  spread, one = lms()
  head = spread.model.params["head"]["weight"]
  assert head.addressable_shards[0].data.shape == (1024, 32)
  cache = spread.model.init_cache(2, 64)["layers"][0]["k"]
  assert cache.addressable_shards[0].data.shape == (1, 64, 1, 8)
  # Three texts cannot be split in two.
  odd = spread.model.init_cache(3, 64)["layers"][0]["k"]
  assert odd.addressable_shards[0].data.shape == (3, 64, 1, 8)
  for found, wanted in zip(
    spread.byte_logprobs_batch(TEXTS),
    one.byte_logprobs_batch(TEXTS),
    strict=True,
  ):
    close(found, wanted)


def check_samples() -> None:
  """Texts are the same; what goes on is not compiled anew."""
  drawn = [lm.sampler(TEXTS, jax.random.key(0), 12) for lm in lms()]
  for sampler in drawn:
    sampler.step(1)
  cache = drawn[0].batch.state.members[0].cache["layers"][0]["k"]
  assert cache.sharding.spec == PartitionSpec("data", None, "model")
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *rest, **more: compiled.append(event)
  )
  for sampler in drawn:
    while sampler.step(1):
      pass
  assert not [event for event in compiled if "backend_compile" in event]
  for found, wanted in zip(*(s.samples() for s in drawn), strict=True):
    assert found.text == wanted.text and found.calls == wanted.calls
    assert found.calls < len(found.text)
    close(found.logprobs, wanted.logprobs)


def check_ensembles() -> None:
  """Members on a mesh, and the same on one device: scores and texts."""
  spread, one = (
    byteprob.Ensemble(members, "bayes")
    for members in zip(lms(0), lms(1), strict=True)
  )
  for found, wanted in zip(
    spread.byte_logprobs_batch(TEXTS),
    one.byte_logprobs_batch(TEXTS),
    strict=True,
  ):
    close(found, wanted)
  drawn = (
    model.sample(TEXTS, jax.random.key(0), 12) for model in (spread, one)
  )
  for found, wanted in zip(*drawn, strict=True):
    assert found.text == wanted.text and len(found.text) > 3
    close(found.logprobs, wanted.logprobs)


def check_gradients() -> None:
  """Bytes' log-probs and their gradients; the latter split as parameters."""
  text = np.array([list(b"import n"), list(b"def f(x)")], np.uint8)
  length = np.array([8, 6], np.int32)
  found = []
  for lm in lms(shape="data:2"):
    size = engine.EngineConfig.of(
      lm.model,
      lm.tables,
      capacity=32,
      max_frontier=16,
      chunk_bytes=16,
      chunk_nodes=16,
      chunk_rows=16,
      differentiable=True,
    )

    def total(params, tables, size=size):
      rows = engine.text_logprobs(size, tables, params, text, length)
      return rows.sum(), rows

    grad = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, rows), gradient = grad(lm.model.params, lm.tables)
    wanted = lm.byte_logprobs_batch([b"import n", b"def f("])
    for row, own, count in zip(rows, wanted, length, strict=True):
      close(row[:count], own, 2e-5)
    found.append((rows, gradient))
  close(found[0][0], found[1][0], 2e-5)
  for a, b in zip(*(jax.tree.leaves(x) for _, x in found), strict=True):
    assert np.isfinite(np.asarray(b)).all() and len(a.sharding.device_set) == 2
    far = np.abs(np.asarray(a) - np.asarray(b)).max()
    assert far <= 1e-4 * (1 + np.abs(np.asarray(b)).max())


def check_training() -> None:
  """A step of training, parameters and optimizer split."""
  recipe = _lm.recipe_of(get_config("tiny"))
  mesh = byteprob.make_mesh("data:4,model:2")
  rows = np.random.default_rng(0).integers(0, 512, (4, 33), np.int32)
  begin = functools.partial(_lm.init_state, recipe)
  where = sharding.of_params(recipe.model, mesh, jax.eval_shape(begin))
  spread = jax.jit(begin, out_shardings=where)()
  batch = NamedSharding(mesh, PartitionSpec("data"))
  lost = []
  for state, given in (
    (spread, jax.device_put(rows, batch)),
    (jax.jit(begin)(), rows),
  ):
    for _ in range(2):
      state, loss = _lm.train_step(recipe, state, given)
      lost.append(float(loss))
    if state["params"]["embed"]["embedding"].sharding.is_fully_replicated:
      whole = state
    else:
      spread = state
  up = spread["opt"][1][0].mu["layer_0"]["mlp"]["up"]["weight"]
  assert up.addressable_shards[0].data.shape == (32, 32), up.sharding
  np.testing.assert_allclose(lost[:2], lost[2:], rtol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves(spread["params"]),
    jax.tree.leaves(whole["params"]),
    strict=True,
  ):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


def check_loading() -> None:
  """Each device's part is read on its own, and all parts are the whole."""
  made = dataclasses.replace(config(40_960), qkv_bias=False, mlp_bias=False)
  made = dataclasses.replace(made, tied=True)
  params = decoder.init_params(made, jax.random.key(0))
  markers = _data.Markers(start=0, end=1, prefix=2, suffix=3, middle=4)
  tensors = _export.llama_tensors(made, params)
  mesh = byteprob.make_mesh("data:2,model:4")
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    written = _export.llama_config(made, markers)
    (directory / "config.json").write_text(json.dumps(written))
    save_file(tensors, directory / "model.safetensors")
    wanted = models.load_model(directory, "bfloat16").params
    models.load_model(directory, "bfloat16", mesh)  # Imports are not counted.
    tracemalloc.start()
    found = models.load_model(directory, "bfloat16", mesh).params
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    converted.save(directory, *models.load_params(directory, "bfloat16"))
    again = models.load_model(directory, "bfloat16", mesh).params
  embedding = found["embed"]["embedding"]
  assert embedding.dtype == jax.numpy.bfloat16
  assert found["final_norm"]["scale"].dtype == np.float32
  assert embedding.addressable_shards[0].data.shape == (10_240, 32)
  for a, b, c in zip(
    *map(jax.tree.leaves, (found, wanted, again)), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    np.testing.assert_array_equal(np.asarray(c), np.asarray(b))
    assert c.sharding == a.sharding and c.dtype == a.dtype
  # A part as it is in the file, in float32, and as it is sent; the whole is
  # four times as much. (The parts sent are the CPU devices' memory.)
  assert peak - kept < 1.2 * embedding.size / 4 * (2 + 4 + 2), (peak, kept)


def check_billion() -> None:
  """A model of the shape of Llama 3.2 1B takes a step on eight devices."""
  made = models.DecoderConfig(
    vocab_size=128_256,
    context_length=8192,
    width=2048,
    heads=32,
    kv_heads=8,
    head_dim=64,
    mlp_width=8192,
    layers=(models.Layer(rope=models.Rope(theta=5e5)),) * 16,
    attention_scale=0.125,
    tied=True,
  )
  mesh = byteprob.make_mesh("model:8")

  def begin():
    shapes = jax.eval_shape(
      functools.partial(decoder.init_params, made), jax.random.key(0)
    )
    return jax.tree.map(lambda x: jnp.full(x.shape, 0.01, jnp.bfloat16), shapes)

  where = sharding.of_params(made, mesh, jax.eval_shape(begin))
  params = jax.jit(begin, out_shardings=where)()
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert 1.2e9 < size < 1.3e9
  model = sharding.make_model(made, params, mesh, jnp.bfloat16)
  row = np.zeros((1, 1), np.int32)
  step = jax.jit(model.extend, donate_argnums=1)
  logits, cache = step(
    model.params,
    model.init_cache(1, 64),
    row,
    row,
    row,
    np.ones((1, 1, 64), bool),
  )
  assert logits.dtype == jnp.float32 and logits.shape == (1, 1, 128_256)
  assert logits.addressable_shards[0].data.shape == (1, 1, 16_032)
  assert np.isfinite(np.asarray(logits)).all()
  assert np.asarray(cache["layers"][15]["k"][0, 0]).any()


if __name__ == "__main__":
  for name in sys.argv[1:]:
    globals()[f"check_{name}"]()
