"""Host: Hugging Face directories, of all ages and layouts, load."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
import torch
from hf_editing import edit_config
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch

from byteprob import models


@pytest.fixture(scope="module")
def llama_directory(tmp_path_factory):
  directory = tmp_path_factory.mktemp("llama")
  tiny.save("llama", directory)
  return directory


@pytest.fixture
def llama(llama_directory, tmp_path):
  """A copy of the tiny Llama, to be broken."""
  return shutil.copytree(llama_directory, tmp_path / "llama")


def _same(directory, other):
  config, params = models.load_hf(directory)
  want_config, want = models.load_hf(other)
  assert config == want_config
  jax.tree.map(np.testing.assert_array_equal, params, want)


def test_shards_load_as_one_file(llama_directory, tmp_path):
  torch_model = tiny.make("llama")
  torch_model.save_pretrained(tmp_path, max_shard_size="20KB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  _same(tmp_path, llama_directory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_their_numbers(dtype, tmp_path):
  torch_model = tiny.save("llama", tmp_path / "full").to(dtype)
  torch_model.save_pretrained(tmp_path / "half")
  torch_model.float().save_pretrained(tmp_path / "rounded")
  _, params = models.load_hf(tmp_path / "half")
  _, want = models.load_hf(tmp_path / "rounded")
  jax.tree.map(np.testing.assert_array_equal, params, want)
  assert params["head"]["weight"].dtype == jnp.float32


def test_bfloat16_is_the_rounded_float32(llama_directory):
  _, params = models.load_hf(llama_directory, "bfloat16")
  _, full = models.load_hf(llama_directory)
  want = models.cast_params(full, jnp.bfloat16)
  assert params["head"]["weight"].dtype == jnp.bfloat16
  assert params["final_norm"]["scale"].dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, params, want)


def test_other_dtypes_are_refused(llama_directory):
  with pytest.raises(ValueError, match="float32 or bfloat16"):
    models.load_hf(llama_directory, "float16")


@pytest.mark.parametrize(
  ("name", "old"),
  [
    ("llama", {"rope_theta": 10_000.0}),
    (
      "llama_llama3",
      {
        "rope_theta": 10_000.0,
        "rope_scaling": {
          k: v for k, v in tiny.LLAMA3.items() if k != "rope_theta"
        },
      },
    ),
    (
      "llama_linear",
      {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    (
      "gemma3_text_mqa_capped",
      {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
      },
    ),
    ("qwen3", {"rope_theta": 10_000.0}),
    ("starcoder2", {"rope_theta": 10_000.0}),
  ],
)
def test_the_spellings_of_version_4_mean_the_same(name, old, tmp_path):
  tiny.save(name, tmp_path / "new")
  shutil.copytree(tmp_path / "new", tmp_path / "old")
  old = old | {
    "torch_dtype": "float32",
    "rope_scaling": old.get("rope_scaling"),
  }
  edit_config(tmp_path / "old", remove=["rope_parameters", "dtype"], **old)
  _same(tmp_path / "old", tmp_path / "new")


def test_gemma_layers_by_the_old_pattern(tmp_path):
  tiny.save("gemma3_text", tmp_path)
  edit_config(tmp_path, remove=["layer_types"], sliding_window_pattern=2)
  config, _ = models.load_hf(tmp_path)
  assert [layer.window for layer in config.layers] == [5, None, 5]


def test_the_text_model_of_a_model_with_pictures(tmp_path):
  torch_model = tiny.save("gemma3_text", tmp_path / "text")
  text = json.loads((tmp_path / "text" / "config.json").read_text())
  for layout, prefix in (
    ("old", "language_model.model."),
    ("new", "model.language_model."),
  ):
    directory = tmp_path / layout
    directory.mkdir()
    tensors = {
      name.replace("model.", prefix, 1): x.contiguous()
      for name, x in torch_model.state_dict().items()
      if name != "lm_head.weight"
    }
    tensors["vision_tower.vision_model.post_layernorm.bias"] = torch.ones(3)
    safetensors_torch.save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(
      json.dumps(
        {
          "model_type": "gemma3",
          "text_config": text,
          "vision_config": {"hidden_size": 8},
          "image_token_index": 262_144,
          "mm_tokens_per_image": 256,
        }
      )
    )
    _same(directory, tmp_path / "text")


def test_old_buffers_and_a_tied_copy_are_passed_over(tmp_path):
  tiny.save("gpt2", tmp_path / "plain")
  shutil.copytree(tmp_path / "plain", tmp_path / "gpt2")
  path = tmp_path / "gpt2" / "model.safetensors"
  tensors = safetensors_numpy.load_file(path)
  # As the first GPT-2 files were: no prefix, and the mask beside the weights.
  tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
  tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
  tensors["h.0.attn.masked_bias"] = np.zeros((), np.float32)
  tensors["lm_head.weight"] = tensors["wte.weight"]
  safetensors_numpy.save_file(tensors, path)
  _same(tmp_path / "gpt2", tmp_path / "plain")


# As published, shortened: what these files have beside what matters.
_PUBLISHED = {
  "llama": dict(
    architectures=["LlamaForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    is_llama_config=True,
    rope_interleaved=False,
    rope_scaling=None,
    rope_theta=100_000,
    pretraining_tp=1,
    torch_dtype="bfloat16",
    transformers_version="4.42.3",
    use_cache=True,
    **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}},
  ),
  "gpt2": dict(
    activation_function="gelu_new",
    attn_pdrop=0.1,
    n_ctx=64,
    summary_first_dropout=0.1,
    summary_type="cls_index",
    task_specific_params={"text-generation": {"max_length": 50}},
  ),
  "gemma3_text": dict(
    _sliding_window_pattern=6,
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
    cache_implementation="hybrid",
    use_bidirectional_attention=False,
  ),
  "starcoder2": dict(
    activation_function="gelu",
    attention_softmax_in_fp32=True,
    mlp_type="default",
    norm_type="layer_norm",
    scale_attention_softmax_in_fp32=True,
    scale_attn_weights=True,
  ),
}


@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_configs_are_understood(name, tmp_path):
  tiny.save(name, tmp_path)
  edit_config(tmp_path, **_PUBLISHED[name])
  models.load_hf(tmp_path)


def test_special_tokens_are_declared(llama):
  info = models.read_info(llama)
  assert info == models.CheckpointInfo(family="llama", bos_id=1, eos_ids=(2,))
  (llama / "generation_config.json").write_text(
    json.dumps({"eos_token_id": [7, 9], "bos_token_id": None})
  )
  info = models.read_info(llama)
  assert (info.bos_id, info.eos_ids) == (1, (7, 9))
