"""Host: GGUF files load as the models that they were converted from."""

import gguf
import gguf_blocks
import gguf_writing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from byteprob import errors, models
from byteprob.models import gguf_file

# Left out: what the format has no key for (windows in every layer, a scale
# of the scores of its own) and what the converter makes a tensor of.
_CASES = sorted(
  set(tiny.CASES)
  - {"mistral", "starcoder2", "qwen2_window", "gemma3_text", "llama_llama3"}
)


@pytest.mark.parametrize("name", _CASES)
def test_loads_as_the_model_it_was_converted_from(name, tmp_path):
  torch_model = tiny.save(name, tmp_path)
  path = gguf_writing.write_model(tmp_path / "model.gguf", torch_model)
  config, params = models.load_gguf(path)
  want_config, want_params = models.load_hf(tmp_path)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, want_params)
  ids = tiny.tokens()
  want = tiny.forward(want_config, want_params, ids)
  got = tiny.forward(config, params, ids)
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_llama3_scaling_is_read_from_its_tensor(tmp_path):
  torch_model = tiny.save("llama_llama3", tmp_path)
  rope = torch_model.model.rotary_emb
  plain = 10_000.0 ** (-np.arange(0, 8, 2) / 8)
  path = gguf_writing.write_model(
    tmp_path / "model.gguf",
    torch_model,
    arrays={"rope_freqs.weight": (plain / rope.inv_freq.numpy()).astype("f4")},
  )
  config, params = models.load_gguf(path)
  ids = tiny.tokens()
  want = tiny.logits(torch_model, ids)
  got = tiny.forward(config, params, ids)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["mistral", "starcoder2"])
def test_a_window_is_read_where_there_is_one(name, tmp_path):
  torch_model = tiny.save(name, tmp_path)
  path = gguf_writing.write_model(
    tmp_path / "model.gguf",
    torch_model,
    keys={"attention.sliding_window": 5},
  )
  config, params = models.load_gguf(path)
  want = tiny.logits(torch_model, tiny.tokens())
  got = tiny.forward(config, params, tiny.tokens())
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_gemma_without_the_newer_keys_has_the_published_layers(tmp_path):
  torch_model = tiny.make("gemma3_text_mqa_capped")
  keys = gguf_writing.metadata(torch_model)
  for key in ("attention.sliding_window_pattern", "rope.freq_base_swa"):
    del keys[key]
  arrays = gguf_writing.tensors(torch_model)
  first = {k: v for k, v in arrays.items() if k.startswith("blk.0.")}
  for i in range(3, 7):
    arrays |= {k.replace(".0.", f".{i}."): v for k, v in first.items()}
  keys["block_count"] = 7
  path = gguf_writing.write(tmp_path / "model.gguf", "gemma3", keys, arrays)
  config, _ = models.load_gguf(path)
  windows = [layer.window for layer in config.layers]
  assert windows == [7, 7, 7, 7, 7, None, 7]
  thetas = [layer.rope.theta for layer in config.layers]
  assert thetas == [1e4, 1e4, 1e4, 1e4, 1e4, 1e6, 1e4]
  assert config.layers[5].rope.factors == (8.0,) * 4


def test_the_largest_gemma_scales_scores_by_its_width(tmp_path):
  torch_model = tiny.make("gemma3_text_mqa_capped")
  keys = gguf_writing.metadata(torch_model) | {"block_count": 62}
  del keys["attention.sliding_window_pattern"]
  arrays = gguf_writing.tensors(torch_model)
  first = {k: v for k, v in arrays.items() if k.startswith("blk.0.")}
  for i in range(3, 62):
    arrays |= {k.replace(".0.", f".{i}."): v for k, v in first.items()}
  # 32 / 2 query heads, of 8 dimensions each: 16 is not the size of a head.
  keys |= {"attention.head_count": 2}
  for i in range(62):
    arrays[f"blk.{i}.attn_q.weight"] = np.zeros((16, 32), np.float32)
    arrays[f"blk.{i}.attn_output.weight"] = np.zeros((32, 16), np.float32)
  path = gguf_writing.write(tmp_path / "model.gguf", "gemma3", keys, arrays)
  config, _ = models.load_gguf(path)
  assert config.attention_scale == 16**-0.5


@pytest.mark.parametrize("kind", gguf_blocks.KINDS)
def test_every_kind_of_number_is_read_as_ggml_defines_it(kind, tmp_path):
  data, want = gguf_blocks.random_blocks(kind, rows=3, blocks=2, seed=0)
  path = tmp_path / "model.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  raw_dtype = gguf.GGMLQuantizationType[kind]
  # A tensor before it, so that its bytes do not begin where the data do.
  writer.add_tensor("first", np.arange(5, dtype=np.float32))
  writer.add_tensor("x", data, raw_dtype=raw_dtype)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  got = gguf_file.read_gguf(path).tensors["x"].read()
  assert got.dtype == np.float32
  assert np.std(want) > 0
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_quantised_weights_are_used_as_they_dequantise(tmp_path):
  torch_model = tiny.make("llama")
  arrays = gguf_writing.tensors(torch_model)
  q8 = gguf.GGMLQuantizationType.Q8_0
  # Rows of 32 numbers, one block each.
  kinds = {n: q8 for n, x in arrays.items() if x.shape[1:] == (32,)}
  assert "token_embd.weight" in kinds and "blk.0.attn_q.weight" in kinds
  path = gguf_writing.write_model(
    tmp_path / "model.gguf", torch_model, kinds=kinds
  )
  rounded = {
    name: gguf.quants.dequantize(gguf.quants.quantize(arrays[name], q8), q8)
    for name in kinds
  }
  plain = gguf_writing.write_model(
    tmp_path / "plain.gguf", torch_model, arrays=rounded
  )
  _, params = models.load_gguf(path)
  _, want = models.load_gguf(plain)
  jax.tree.map(np.testing.assert_array_equal, params, want)


def test_bfloat16_keeps_norms_in_float32(tmp_path):
  torch_model = tiny.save("gemma3_text", tmp_path)
  path = gguf_writing.write_model(tmp_path / "model.gguf", torch_model)
  _, params = models.load_gguf(path, "bfloat16")
  assert params["embed"]["embedding"].dtype == jnp.bfloat16
  assert params["layer_0"]["attention"]["query"]["weight"].dtype == jnp.bfloat16
  assert params["final_norm"]["scale"].dtype == jnp.float32
  assert params["layer_0"]["attention"]["key_norm"]["scale"].dtype == "float32"


def test_metadata_agrees_with_the_reader_of_gguf(tmp_path):
  general = {
    "general.name": "naïve",
    "tokenizer.ggml.tokens": ["a", "é", "<0x0A>"],
    "tokenizer.ggml.scores": [-1.5, 0.0, 2.0],
    "tokenizer.ggml.token_type": [1, 1, 6],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.bos_token_id": 7,
    "tokenizer.ggml.eos_token_id": 5,
    "tokenizer.ggml.eot_token_id": 9,
  }
  path = gguf_writing.write_model(
    tmp_path / "model.gguf", tiny.make("llama"), general=general
  )
  file = gguf_file.read_gguf(path)
  reader = gguf.GGUFReader(path)
  theirs = {
    key: field.contents()
    for key, field in reader.fields.items()
    if not key.startswith("GGUF.")
  }
  assert set(file.metadata) == set(theirs)
  for key, value in theirs.items():
    np.testing.assert_array_equal(file.metadata[key], value)
  for tensor in reader.tensors:
    np.testing.assert_array_equal(file.tensors[tensor.name].read(), tensor.data)
  assert models.read_info(path) == models.CheckpointInfo(
    family="llama", bos_id=7, eos_ids=(5, 9)
  )


def _refused(path, *messages):
  with pytest.raises(errors.CheckpointError) as caught:
    models.load_gguf(path)
  for message in (path.name, *messages):
    assert message in str(caught.value)


def test_refuses_all_that_does_not_fit_at_once(tmp_path):
  torch_model = tiny.make("llama")
  arrays = gguf_writing.tensors(torch_model)
  del arrays["blk.1.ffn_up.weight"]
  arrays["blk.2.attn_q.weight"] = np.zeros((8, 8), np.float32)
  arrays["blk.0.ffn_gate_inp.weight"] = np.zeros((8, 8), np.float32)
  arrays["blk.0.attn_q_norm.weight"] = np.zeros(8, np.float32)
  arrays["blk.9.attn_norm.weight"] = np.zeros(32, np.float32)
  keys = gguf_writing.metadata(torch_model)
  keys |= {"attention.clamp_kqv": 8.0, "expert_count": 4}
  path = gguf_writing.write(tmp_path / "m.gguf", "llama", keys, arrays)
  _refused(
    path,
    "llama.attention.clamp_kqv is 8.0",
    "llama.expert_count is 4",
    "no tensor for the parameter layer_1/mlp/up/weight",
    "blk.2.attn_q.weight has shape [8, 8]",
    "blk.0.ffn_gate_inp.weight is not one",
    "blk.0.attn_q_norm.weight has no place",
    "blk.9.attn_norm.weight has no place",
    "7 problems",
  )


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ({"block_count": "3"}, "block_count is '3'"),
    ({"block_count": 0}, "block_count is 0"),
    ({"block_count": 9_999_999}, "block_count is 9999999"),
    ({"block_count": 9_999}, "9999 layers are declared"),
    ({"attention.head_count_kv": 3}, "4 query heads cannot share 3"),
    ({"attention.head_count_kv": [2, 2, 1]}, "attention.head_count_kv is"),
    ({"attention.layer_norm_rms_epsilon": 0.0}, "layer_norm_rms_epsilon is 0"),
    ({"rope.freq_base": float("nan")}, "rope.freq_base is nan"),
    ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
    ({"rope.dimension_count": 4}, "rope.dimension_count is not the size"),
    ({"attention.value_length": 4}, "attention.value_length is not the size"),
  ],
)
def test_refuses_metadata_that_cannot_be(keys, message, tmp_path):
  path = gguf_writing.write_model(
    tmp_path / "m.gguf", tiny.make("llama"), keys=keys
  )
  _refused(path, message)


@pytest.mark.parametrize(
  "factors", [np.ones(3), np.zeros(4), np.full(4, np.nan)]
)
def test_refuses_rotary_factors_that_cannot_be(factors, tmp_path):
  path = gguf_writing.write_model(
    tmp_path / "m.gguf",
    tiny.make("llama"),
    arrays={"rope_freqs.weight": factors.astype(np.float32)},
  )
  _refused(path, "rope_freqs.weight is not a table of rotary factors")


def test_refuses_missing_keys(tmp_path):
  torch_model = tiny.make("llama")
  keys = gguf_writing.metadata(torch_model)
  del keys["embedding_length"], keys["context_length"]
  arrays = gguf_writing.tensors(torch_model)
  path = gguf_writing.write(tmp_path / "m.gguf", "llama", keys, arrays)
  _refused(path, "embedding_length is missing", "context_length is missing")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_numbers_that_are_not_finite(value, tmp_path):
  torch_model = tiny.make("llama")
  x = gguf_writing.tensors(torch_model)["blk.1.ffn_down.weight"]
  x[3, 4] = value
  path = gguf_writing.write_model(
    tmp_path / "m.gguf", torch_model, arrays={"blk.1.ffn_down.weight": x}
  )
  _refused(path, "blk.1.ffn_down.weight has numbers that are not finite")


@pytest.mark.parametrize(
  ("architecture", "general", "message"),
  [
    ("mamba", {}, "'mamba' is not supported, only gpt2, llama"),
    ("llama", {"general.type": "adapter"}, "general.type is 'adapter'"),
    ("llama", {"split.count": 2}, "merge"),
  ],
)
def test_refuses_other_kinds_of_file(architecture, general, message, tmp_path):
  torch_model = tiny.make("llama")
  path = gguf_writing.write(
    tmp_path / "m.gguf",
    architecture,
    gguf_writing.metadata(torch_model),
    gguf_writing.tensors(torch_model),
    general=general,
  )
  _refused(path, message)
