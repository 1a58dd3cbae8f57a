"""Host: converted models are the models that they were made of."""

import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest

import byteprob
from byteprob import models
from byteprob.models import assemble, converted
from byteprob.models.converted import load, save

ASSET = pathlib.Path(byteprob.__file__).parent / "assets" / "stdlib-bpe"


def same(found, wanted) -> None:
  """Two trees, bit for bit and dtype for dtype."""
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> pathlib.Path:
  """The model in the package, converted."""
  return byteprob.convert("stdlib-bpe", tmp_path_factory.mktemp("kept") / "it")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_loads_as_the_model_that_it_was_made_of(kept, dtype):
  assert not list(kept.parent.glob(".it*"))
  found, wanted = (byteprob.load(x, dtype) for x in (kept, "stdlib-bpe"))
  same(found.model.params, wanted.model.params)
  assert found.model.params["embed"]["embedding"].dtype == dtype
  assert found.model.context_length == wanted.model.context_length
  same(found.tables, wanted.tables)
  assert found.tables.info == wanted.tables.info
  assert models.read_info(kept) == models.read_info(ASSET)


def every_setting() -> models.DecoderConfig:
  """A decoder with no field at its default."""
  rope = models.Rope(theta=12.5, factors=(1.0, 1 / 3))
  return models.DecoderConfig(
    vocab_size=7,
    context_length=9,
    width=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    mlp_width=5,
    layers=(models.Layer(rope=rope), models.Layer(window=5)),
    norm="layer",
    norm_eps=1e-7,
    sandwich_norm=True,
    qk_norm=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    activation="gelu",
    gated_mlp=False,
    learned_positions=True,
    tied=True,
    embedding_scale=3,
    attention_scale=0.1,
    attention_softcap=20,
    logit_softcap=0.3,
    precision="high",
  )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[pathlib.Path, models.DecoderConfig, dict]:
  """Such a decoder, its parameters kept in many parts."""
  config, rng = every_setting(), np.random.default_rng(0)
  flat = {
    path: jax.numpy.asarray(rng.normal(size=shape), "float32")
    for path, shape in assemble.shapes_of(config).items()
  }
  params = assemble.nest(flat)
  directory = tmp_path_factory.mktemp("made")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(converted, "_CHUNK_BYTES", 64)
    save(directory, config, params)
  return directory, config, params


@pytest.fixture
def tiny(made, tmp_path) -> pathlib.Path:
  """A copy of it, to be broken."""
  return shutil.copytree(made[0], tmp_path / "copy")


def test_every_setting_and_every_parameter(made):
  tiny, asked, wanted = made
  config, params = load(tiny)
  assert config == asked
  same(params, wanted)
  same(load(tiny, "bfloat16")[1], models.cast_params(wanted, "bfloat16"))


@pytest.mark.parametrize(
  ("before", "after", "said"),
  [
    ('"width": 8', '"width": 16', "of the model that byteprob.json says"),
    ('"gated_mlp": false', '"gated_mlp": true', "the shapes differ"),
    ('"width": 8', '"width": -8', "width is -8"),
    ('"width": 8', '"width": true', "width is True"),
    ('"kv_heads": 1', '"kv_heads": 0', "is not what byteprob.convert writes"),
    ('"heads": 2', '"heads": "2"', "is not what byteprob.convert writes"),
    ('"width": 8', '"widths": 8', "widths"),
    ('"norm": "layer"', '"norm": "batch"', "norm is 'batch'"),
    ('"tied": true', '"tied": 1', "tied is 1"),
    ('"window": 5', '"window": "5"', "window is '5'"),
    ('"theta": 12.5', '"theta": null', "is not what byteprob.convert writes"),
    ('"format": 1', '"format": 2', r"the format 2, and .* reads 1; convert"),
    ('"layers": [', '"layers": [3, ', "is not what byteprob.convert writes"),
    ("(?s).*", "[1]", "is not what byteprob.convert writes"),
    ("(?s).{40}$", "", "is not what byteprob.convert writes"),
  ],
)
def test_what_says_nonsense_is_refused(tiny, before, after, said):
  about = tiny / "byteprob.json"
  text = re.sub(before.replace("[", r"\["), after, about.read_text(), count=1)
  assert text != about.read_text()
  about.write_text(text)
  with pytest.raises(byteprob.CheckpointError, match=said) as caught:
    load(tiny)
  assert "convert the model again" in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["params", "params/_METADATA", "params/d"])
def test_what_is_not_whole_is_refused(tiny, what):
  path = tiny / what
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(byteprob.CheckpointError, match="params is not whole"):
    load(tiny)


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
  broken = tmp_path / "broken"
  shutil.copytree(ASSET, broken)
  weights = broken / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:1000])
  with pytest.raises(byteprob.CheckpointError, match="fetch it again"):
    byteprob.convert(broken, tmp_path / "it")
  assert [path.name for path in tmp_path.iterdir()] == ["broken"]
  with pytest.raises(FileExistsError, match="there is something at"):
    byteprob.convert("stdlib-bpe", broken)


def test_without_orbax(tiny, monkeypatch):
  monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
  with pytest.raises(byteprob.ByteprobError, match="pip install orbax"):
    load(tiny)
