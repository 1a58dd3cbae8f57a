"""Meshes: the same results on one device and on eight, and what is refused."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import byteprob
from byteprob import mesh as meshes
from byteprob import models
from byteprob.models import assemble, sharding

TESTS = pathlib.Path(__file__).parent


@pytest.mark.parametrize(
  "checks",
  [
    "scores training loading",
    pytest.param("gradients", marks=pytest.mark.slow),
    pytest.param("samples", marks=pytest.mark.slow),
    pytest.param("ensembles", marks=pytest.mark.slow),
    pytest.param("billion", marks=pytest.mark.slow),
  ],
)
def test_on_some_devices(checks):
  """See `mesh_script.py`."""
  done = subprocess.run(
    [sys.executable, "mesh_script.py", *checks.split()],
    cwd=TESTS,
    env={
      **os.environ,
      "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "2" if checks == "gradients" else "8",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
  ("shape", "said"),
  [
    ("data:2,models:4", "has the axes data and model"),
    ({"model": 0}, "of a size of at least 1"),
    ("model=2", "'model=2' is no mesh; write it as data:2,model:4"),
    ("model:2,model:2", "is no mesh"),
    ("model:4096", r"data:1,model:4096 takes 4096 devices, and there are \d"),
  ],
)
def test_what_is_no_mesh_is_refused(shape, said):
  with pytest.raises(byteprob.MeshError, match=said):
    byteprob.make_mesh(shape)


def decoder_config(**sizes) -> models.DecoderConfig:
  """A decoder of these sizes."""
  given = dict(heads=9, kv_heads=3, mlp_width=1536, vocab_size=100)
  return models.DecoderConfig(
    **{**given, **sizes},
    context_length=8,
    width=8,
    head_dim=8,
    layers=(),
    attention_scale=1.0,
  )


def abstract(data: int, model: int) -> jax.sharding.AbstractMesh:
  """A mesh without devices."""
  return jax.sharding.AbstractMesh((data, model), meshes.AXES)


@pytest.mark.parametrize(
  ("sizes", "asked", "said"),
  [
    ({}, 4, "model:4 does not divide the model's 9 attention heads; .*model:3"),
    ({}, 2, "9 attention heads; the nearest size that does is model:1"),
    ({"heads": 8, "kv_heads": 8, "mlp_width": 20}, 8, "20 hidden .*model:4"),
    ({"mlp_width": 7}, 5, "9 attention heads and 7 hidden units; .*model:1"),
  ],
)
def test_a_mesh_that_does_not_divide_the_model(sizes, asked, said):
  with pytest.raises(byteprob.MeshError, match=said):
    sharding.check(decoder_config(**sizes), abstract(1, asked))


def test_what_need_not_be_split_is_not():
  config = decoder_config(heads=8, kv_heads=2)
  mesh = abstract(2, 4)
  sharding.check(config, mesh)

  def spec(path, ndim):
    return tuple(sharding.of_param(config, mesh, path, ndim).spec)

  assert spec("layer_3/attention/query/weight", 2) == ("model", None)
  assert spec("layer_3/attention/query/bias", 1) == ("model",)
  assert spec("layer_3/attention/out/weight", 2) == (None, "model")
  assert spec("layer_3/attention/key/weight", 2) == (None, None)
  assert spec("layer_3/attention/out/bias", 1) == ()
  assert spec("embed/embedding", 2) == ("model", None)
  odd = decoder_config(heads=8, kv_heads=8, vocab_size=50_257)
  spread = sharding.of_param(odd, mesh, "head/weight", 2)
  assert tuple(spread.spec) == (None, None)


@pytest.mark.parametrize("targets", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("interleaved", [0, 2])
def test_a_part_is_the_part_of_the_whole(targets, transpose, interleaved):
  tensor = np.arange(24 * 12, dtype=np.float32).reshape(24, 12)
  read = []

  def part(index):
    read.append(tensor[index].size)
    return tensor[index]

  source = assemble.Source(shape=tensor.shape, read=lambda: tensor, part=part)
  rule = assemble.Rule(
    pattern="",
    targets=targets,
    transpose=transpose,
    interleaved=interleaved,
    add=1.0,
  )
  shape = rule.shape(tensor.shape)
  reader = assemble._reader(source, rule, shape)
  index = (slice(shape[0] // 4, shape[0] // 2), slice(3, shape[1]))
  for number, whole in enumerate(rule.apply(tensor)):
    np.testing.assert_array_equal(reader(number, index), whole[index])
  if not interleaved:
    assert set(read) == {whole[index].size}
