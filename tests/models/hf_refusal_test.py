"""Host: Hugging Face directories that are not understood are refused."""

import json
import shutil
import struct

import numpy as np
import pytest
import tiny_models as tiny
from hf_editing import edit_config, edit_tensors
from safetensors import numpy as safetensors_numpy

from byteprob import errors, models
from byteprob.models import hf


@pytest.fixture(scope="module")
def llama_directory(tmp_path_factory):
  directory = tmp_path_factory.mktemp("llama")
  tiny.save("llama", directory)
  return directory


@pytest.fixture
def llama(llama_directory, tmp_path):
  """A copy of the tiny Llama, to be broken."""
  return shutil.copytree(llama_directory, tmp_path / "llama")


def _refused(path, *messages):
  with pytest.raises(errors.CheckpointError) as caught:
    models.load_model(path)
  for message in (str(path), *messages):
    assert message in str(caught.value)


def test_lists_all_that_is_wrong_at_once(llama):
  edit_config(llama, logit_scale=2.0, partial_rotary_factor=0.5)
  edit_tensors(
    llama,
    remove=["model.layers.0.mlp.up_proj.weight"],
    model__layers__1__mlp__up_proj__weight=np.zeros((3, 5), np.float32),
    model__layers__1__mlp__router__weight=np.zeros((3, 5), np.float32),
    model__layers__7__input_layernorm__weight=np.zeros(32, np.float32),
    model__layers__2__self_attn__q_proj__bias=np.zeros(32, np.float32),
  )
  _refused(
    llama,
    "7 problems",
    "config.json sets logit_scale to 2.0",
    "config.json sets partial_rotary_factor to 0.5",
    "no tensor for the parameter layer_0/mlp/up/weight",
    "layers.1.mlp.up_proj.weight has shape [3, 5]",
    "layers.1.mlp.router.weight is not one",
    "layers.7.input_layernorm.weight has no place",
    "layers.2.self_attn.q_proj.bias has no place",
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model_type": "mamba"}, "'mamba' is not supported, only gpt2, llama"),
    ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
    ({"hidden_size": "32"}, "hidden_size is '32', want an integer"),
    ({"hidden_size": True}, "hidden_size is True, want an integer"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ({"num_hidden_layers": 9_999}, "9999 layers are declared"),
    ({"num_hidden_layers": 4}, "no tensor for the parameter layer_3/"),
    ({"num_hidden_layers": 2}, "layers.2.mlp.up_proj.weight has no place"),
    ({"num_key_value_heads": 3}, "4 query heads cannot share 3 key heads"),
    ({"head_dim": 7}, "head_dim is 7, want an even number"),
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu', want one of silu"),
    ({"attention_bias": "no"}, "attention_bias is 'no', want true or false"),
    ({"quantization_config": {"bits": 4}}, "sets quantization_config"),
    ({"sliding_window": 4096}, "config.json sets sliding_window to 4096"),
    ({"is_decoder": True}, "config.json sets is_decoder to True"),
    ({"rope_scaling": [1]}, "rotary parameters must be an object"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_type 'yarn' is not supported"),
    (
      {"rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}},
      "rotary parameter beta = 1 is not supported",
    ),
    ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    ({"rope_scaling": {"type": "llama3"}}, "low_freq_factor is missing"),
    (
      {"rope_scaling": tiny.LLAMA3 | {"high_freq_factor": 1.0}},
      "low_freq_factor is not below high_freq_factor",
    ),
    ({"rope_scaling": tiny.LLAMA3 | {"factor": 1e-320}}, "a rotary factor is"),
    (
      {"rope_scaling": {"type": "default", "rope_theta": 1e-308}},
      "base of rotary frequencies is 1e-308",
    ),
    (
      {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.25}},
      "rotary parameter partial_rotary_factor = 0.25",
    ),
  ],
)
def test_refuses_configs_that_it_does_not_understand(changes, message, llama):
  edit_config(llama, **changes)
  _refused(llama, message)


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inv"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights to False"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "not causal"),
    ("gemma3_text", {"layer_types": ["full_attention"]}, "a list of 3 names"),
    (
      "gemma3_text",
      {"layer_types": ["full_attention", "x", "y"]},
      "names x, y",
    ),
    ("gemma3_text", {"sliding_window": None}, "but no sliding_window"),
    ("gemma3_text", {"rope_parameters": {"rope_theta": 1e4}}, "by kind"),
    ("qwen3", {"attention_bias": 1}, "attention_bias is 1"),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "sets layer_types"),
    ("starcoder2", {"norm_type": "rms"}, "sets norm_type to 'rms'"),
  ],
)
def test_refuses_configs_of_other_families(name, changes, message, tmp_path):
  tiny.save(name, tmp_path)
  edit_config(tmp_path, **changes)
  _refused(tmp_path, message)


def test_keys_at_the_default_of_a_newer_transformers_are_understood(
  llama, monkeypatch
):
  defaults = dict(hf._defaults("LlamaConfig")) | {"novelty": 3}
  monkeypatch.setattr(hf, "_defaults", lambda _: defaults)
  edit_config(llama, novelty=3)
  models.load_hf(llama)
  edit_config(llama, novelty=4)
  _refused(llama, "config.json sets novelty to 4, which is not implemented")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is not JSON"),
    ("[]", "is not a JSON object"),
    ("[" * 100_000, "is not JSON"),
    ("\xff", "is not JSON"),
    ("{}", "model_type None is not supported"),
    ('{"model_type": "gemma3"}', "has no text_config"),
  ],
)
def test_refuses_broken_configs(text, message, llama):
  (llama / "config.json").write_bytes(text.encode("latin-1"))
  _refused(llama, message)


def test_refuses_paths_with_nothing_to_load(llama, tmp_path):
  _refused(tmp_path / "nowhere", "there is nothing at")
  _refused(llama / "model.safetensors", "name its directory")
  (llama / "model.safetensors").unlink()
  _refused(llama, "neither model.safetensors nor")
  (llama / "config.json").unlink()
  _refused(llama, "config.json is missing")


def test_never_reads_a_pickle(llama):
  (llama / "model.safetensors").unlink()
  (llama / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
  _refused(llama, "pytorch_model.bin, a pickle", "convert it to safetensors")


def test_refuses_a_separate_head_where_tied(tmp_path):
  tiny.save("llama_mqa_tied", tmp_path)
  edit_tensors(tmp_path, lm_head__weight=np.ones((tiny.VOCAB, 32), np.float32))
  _refused(tmp_path, "lm_head.weight is declared tied")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_numbers_that_are_not_finite(value, llama):
  name = "model.layers.1.mlp.down_proj.weight"
  x = safetensors_numpy.load_file(llama / "model.safetensors")[name]
  x[5, 6] = value
  edit_tensors(llama, **{name: x})
  _refused(llama, f"tensor {name} has numbers that are not finite")


def test_takes_finite_numbers_whose_sum_is_not(llama):
  name = "model.layers.1.mlp.down_proj.weight"
  x = np.full((32, 48), 3e38, np.float32)
  edit_tensors(llama, **{name: x})
  models.load_hf(llama)


def test_refuses_two_names_for_one_parameter(tmp_path):
  tiny.save("gpt2", tmp_path)
  edit_tensors(tmp_path, wpe__weight=np.zeros((64, 32), np.float32))
  _refused(tmp_path, "transformer.wpe.weight", "are the same one")


def test_refuses_integers(llama):
  edit_tensors(llama, model__norm__weight=np.ones(32, np.int32))
  _refused(llama, "model.norm.weight is I32, want F32, F16, BF16")


def _header(path):
  data = path.read_bytes()
  (size,) = struct.unpack("<Q", data[:8])
  return json.loads(data[8 : 8 + size]), data[8 + size :]


def _write(path, header, body):
  text = header if isinstance(header, str) else json.dumps(header)
  path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + body)


def _truncated(path):
  path.write_bytes(path.read_bytes()[:-100])


def _empty(path):
  path.write_bytes(b"")


def _header_size_past_the_end(path):
  path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


def _offset_past_the_end(path):
  header, body = _header(path)
  header["model.norm.weight"]["data_offsets"][1] = 2**50
  _write(path, header, body)


def _shape_larger_than_its_bytes(path):
  header, body = _header(path)
  header["model.norm.weight"]["shape"] = [2**62, 2**62]
  _write(path, header, body)


def _same_name_twice(path):
  header, body = _header(path)
  text = json.dumps(header)
  extra = json.dumps({"model.norm.weight": header["model.norm.weight"]})
  _write(path, text[:-1] + ", " + extra[1:], body)


def _not_json(path):
  _write(path, "{'a'}", b"")


@pytest.mark.parametrize(
  "harm",
  [
    _truncated,
    _empty,
    _header_size_past_the_end,
    _offset_past_the_end,
    _shape_larger_than_its_bytes,
    _same_name_twice,
    _not_json,
  ],
)
def test_refuses_broken_safetensors(harm, llama):
  path = llama / "model.safetensors"
  harm(path)
  _refused(llama, "model.safetensors", "fetch it again")


@pytest.fixture
def sharded(tmp_path):
  tiny.make("llama").save_pretrained(tmp_path, max_shard_size="20KB")
  return tmp_path


def _edit_index(directory, change):
  path = directory / "model.safetensors.index.json"
  index = json.loads(path.read_text())
  change(index)
  path.write_text(json.dumps(index))


def test_refuses_missing_shards(sharded):
  first = min(sharded.glob("*.safetensors"))
  first.unlink()
  _refused(sharded, f"{first.name} is missing")


@pytest.mark.parametrize(
  "file", ["../other.safetensors", "/etc/passwd", "..", "a\\b", ""]
)
def test_never_leaves_the_directory(file, sharded):
  name = "model.norm.weight"
  _edit_index(sharded, lambda i: i["weight_map"].update({name: file}))
  _refused(sharded, f"{file!r} is not the name of a file")


def test_refuses_indices_that_do_not_fit_the_files(sharded):
  _edit_index(sharded, lambda i: i["weight_map"].pop("model.norm.weight"))
  first = min(sharded.glob("*.safetensors")).name
  _edit_index(sharded, lambda i: i["weight_map"].update(ghost=first))
  _refused(sharded, "tensor ghost is not in any file")


def test_refuses_an_index_without_a_map(sharded):
  _edit_index(sharded, lambda i: i.pop("weight_map"))
  _refused(sharded, "has no weight_map")


def test_refuses_one_tensor_in_two_files(sharded):
  shutil.copy(min(sharded.glob("*.safetensors")), sharded / "z.safetensors")
  _edit_index(sharded, lambda i: i["weight_map"].update(z="z.safetensors"))
  _refused(sharded, "and in another file")
