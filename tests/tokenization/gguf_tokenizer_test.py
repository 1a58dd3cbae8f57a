"""Host: tokenizers in GGUF files: what is refused, and what equals what."""

import dataclasses
import json
import pathlib
from importlib import resources

import downloads
import jax
import jax.numpy as jnp
import many_scripts
import numpy as np
import pytest
import tokenizers_zoo as zoo
from gguf import GGUFWriter

from byteprob import scoring
from byteprob.errors import CheckpointError, UnsupportedTokenizerError
from byteprob.tokenization import (
  compile_tables,
  copy_tokenizer,
  gguf,
  huggingface,
  load_tables,
  read_spec,
  tokenizer_file,
)

PREFIX = "tokenizer.ggml."


def byte_level(**changes) -> dict:
  """Metadata of a tiny byte-level tokenizer; None takes a key away."""
  data = {
    "model": "gpt2",
    "pre": "smollm",
    "tokens": ["<s>", "a", "b", zoo.shown(" "), "ab"],
    "token_type": np.array([3, 1, 1, 1, 1]),
    "merges": ["a b"],
    "bos_token_id": 0,
    "eos_token_id": 0,
  } | changes
  return {PREFIX + key: v for key, v in data.items() if v is not None}


def character_level(**changes) -> dict:
  """Metadata of a tiny SentencePiece tokenizer."""
  data = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "a", "b", zoo.SPACE, "ab"],
    "token_type": np.array([2, 3, 1, 1, 1, 1]),
    "scores": np.array([0.0, 0.0, -1.0, -1.0, -1.0, -2.0]),
    "bos_token_id": 1,
    "eos_token_id": 1,
    "add_space_prefix": False,
  } | changes
  return {PREFIX + key: v for key, v in data.items() if v is not None}


def _plain(value):
  return value if isinstance(value, str) else int(value)


def test_what_is_whole_is_read():
  spec = gguf.from_metadata(byte_level())
  assert spec.tokens == (None, b"a", b"b", b" ", b"ab")
  assert (spec.start, spec.end) == ((), (0,))
  spec = gguf.from_metadata(byte_level(add_bos_token=True, eot_token_id=2))
  assert (spec.start, spec.end) == ((0,), (0, 2))
  spec = gguf.from_metadata(character_level())
  assert spec.tokens == (None, None, b"a", b"b", b" ", b"ab")
  assert spec.start == (1,) and spec.prefix == ""
  spec = gguf.from_metadata(character_level(add_space_prefix=None))
  assert spec.prefix == "always"


@pytest.mark.parametrize(
  ("metadata", "named"),
  [
    (byte_level(pre=None), r"pre-tokenizer '\(none\)'.*qwen2.*directory"),
    (byte_level(pre="my-own"), "pre-tokenizer 'my-own'.*smollm"),
    (byte_level(model="bert"), "tokenizer model 'bert' is not supported"),
    (character_level(model="t5"), "tokenizer model 't5' is not supported"),
  ],
)
def test_what_is_not_known_is_refused_by_name(metadata, named):
  with pytest.raises(UnsupportedTokenizerError, match=named):
    gguf.from_metadata(metadata)


def written(file: pathlib.Path, data: dict) -> pathlib.Path:
  """A GGUF file with these metadata and one tensor."""
  writer = GGUFWriter(file, "llama")
  for name, value in data.items():
    if isinstance(value, str):
      writer.add_string(name, value)
    elif isinstance(value, int):
      writer.add_uint32(name, value)
    else:
      writer.add_array(name, list(map(_plain, value)))
  writer.add_tensor("x", np.ones(1000, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return file


def test_a_whole_tokenizer_counts(tmp_path):
  whole = resources.files("byteprob") / "assets/stdlib-bpe/tokenizer.json"
  data = byte_level(add_bos_token=True) | {gguf.WHOLE: whole.read_text()}
  spec = read_spec(written(tmp_path / "m.gguf", data))
  want = huggingface.from_json(json.loads(data[gguf.WHOLE]), {"eos": (0,)})
  np.testing.assert_equal(dataclasses.asdict(spec), dataclasses.asdict(want))


@pytest.mark.parametrize(
  ("whole", "message"),
  [
    (7, f"{gguf.WHOLE} is no text"),
    ("{", f"{gguf.WHOLE} is not valid JSON"),
    ("[]", f"{gguf.WHOLE} does not hold a JSON object"),
    ("{}", f"{gguf.WHOLE} is not a tokenizer that"),
  ],
)
def test_a_whole_tokenizer_that_is_broken(whole, message):
  with pytest.raises(CheckpointError, match=message):
    gguf.from_metadata(byte_level() | {gguf.WHOLE: whole})


@pytest.mark.parametrize("key", ["model", "tokens", "merges"])
def test_a_file_without_a_tokenizer_is_named(key, tmp_path):
  file = written(tmp_path / "m.gguf", byte_level(**{key: None}))
  with pytest.raises(CheckpointError, match=rf"m\.gguf has no .*\.{key};"):
    read_spec(file)


def test_a_copy_has_the_tokenizer_and_no_weights(tmp_path):
  file = written(tmp_path / "m.gguf", byte_level())
  (tmp_path / "copy").mkdir()
  copy_tokenizer(file, tmp_path / "copy")
  (copied,) = (tmp_path / "copy").iterdir()
  assert copied.stat().st_size < file.stat().st_size - 4000
  assert read_spec(copied) == read_spec(file)
  assert tokenizer_file(tmp_path / "copy") == copied


@pytest.mark.parametrize(
  ("metadata", "message"),
  [
    (byte_level(token_type=np.array([1, 1])), "5 tokens and 2 token types"),
    (byte_level(merges=["a"]), "merges are broken"),
    (byte_level(merges=["a b c"]), "merges are broken"),
    (byte_level(merges=["a q"]), "merges are broken"),
    (character_level(scores=np.zeros(3)), "6 pieces and 3 scores"),
    (byte_level(tokens=7), "tokens"),
    (byte_level(tokens=np.arange(5)), "tokens"),
    (byte_level(merges=3), "merges"),
    (byte_level(bos_token_id="x", add_bos_token=True), "bos_token_id"),
    (byte_level(eos_token_id=99), "eos_token_id"),
    (byte_level(eos_token_id=-1), "eos_token_id"),
    (character_level(scores="no"), "scores"),
    (character_level(scores=None), "scores"),
  ],
)
def test_broken_metadata_are_named(metadata, message, tmp_path, monkeypatch):
  file = tmp_path / "m.gguf"
  header = type("Header", (), {"metadata": metadata})
  monkeypatch.setattr(gguf, "read_gguf", lambda path: header)
  with pytest.raises(CheckpointError, match=message):
    read_spec(file)


def _same(one, other) -> None:
  """Checks that two tables are the same, but for what they come from."""
  one = dataclasses.replace(one, info=dataclasses.replace(one.info, key=""))
  other = dataclasses.replace(
    other, info=dataclasses.replace(other.info, key="")
  )
  for field in dataclasses.fields(one):
    a, b = getattr(one, field.name), getattr(other, field.name)
    if field.name == "bpe":
      for part in dataclasses.fields(a):
        np.testing.assert_array_equal(
          getattr(a, part.name), getattr(b, part.name), err_msg=part.name
        )
    elif field.name == "info":
      assert dataclasses.asdict(a) == dataclasses.asdict(b)
    elif field.name == "forms":
      assert not a and not b
    else:
      np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.slow
@pytest.mark.download
def test_gemma3_has_the_same_nodes_from_either_file():
  """Its merges and its scores say the same of every pair of tokens."""
  texts = many_scripts.texts(7, 24, 250)
  # A literal mark is taken for a space before the tokenizer sees it; and what
  # is not used is a control token in one file, and text's token in the other.
  working = [
    text.replace(zoo.SPACE, " ").replace("<unused7>", "").encode()
    for text in texts
  ]
  found = []
  for file in (downloads.tokenizer("gemma3"), downloads.model("gemma3-270m")):
    tables = jax.tree.map(jnp.asarray, load_tables(file))
    queries = [
      scoring.ScoringQuery(prefix=(0,), text=text, start=tables.start)
      for text in working
    ]
    nodes = jax.device_get(scoring.read(tables, queries)[0])
    ids = np.asarray(tables.token_id)
    found.append(
      [
        [
          (int(ids[nodes.token[k, n]]), int(nodes.parent[k, n]))
          for n in range(1, nodes.count[k])
        ]
        for k in range(len(texts))
      ]
    )
  assert min(map(len, found[0])) > 100
  assert found[0] == found[1]


def test_a_tiny_model_is_the_same_from_either_file():
  entry = zoo.ZOO["gpt2"]()
  data = json.loads(json.dumps(entry.json))
  vocab = data["model"]["vocab"]
  tokens = [*vocab, "<s>", "</s>"]
  kinds = np.array([1] * len(vocab) + [3, 3])
  metadata = byte_level(
    pre="gpt-2",
    tokens=tokens,
    token_type=kinds,
    merges=[" ".join(pair) for pair in data["model"]["merges"]],
    bos_token_id=None,
    eos_token_id=len(vocab) + 1,
  )
  configs = {"eos": list(entry.ends)}
  _same(
    compile_tables(huggingface.from_json(data, configs), key="json"),
    compile_tables(gguf.from_metadata(metadata), key="gguf"),
  )
