"""Host: what a `tokenizer.json` may not hold is refused by name."""

import copy
import json

import pytest
import tokenizers_zoo

from byteprob.errors import CheckpointError, UnsupportedTokenizerError
from byteprob.tokenization import huggingface, load_tables, read_spec

SPACE = tokenizers_zoo.SPACE


def entry(name: str) -> dict:
  return copy.deepcopy(tokenizers_zoo.ZOO[name]().json)


def edited(name: str, path: str, value) -> dict:
  """A tokenizer with one value changed; `path` is its keys, dotted."""
  data = entry(name)
  *keys, last = path.split(".")
  part = data
  for key in keys:
    part = part[int(key) if isinstance(part, list) else key]
  part[last] = value
  return data


_REGEX = {"Regex": r"\s+"}
_SPLIT = {
  "type": "Split", "pattern": _REGEX, "behavior": "Isolated", "invert": False
}  # fmt: skip
_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def _added(**changes) -> list:
  token = {"id": 40, "content": "zz", "single_word": False, "lstrip": False}
  token |= {"rstrip": False, "normalized": False, "special": False}
  return [token | changes]


def _sequence(*parts) -> dict:
  return {"type": "Sequence", "pretokenizers": list(parts)}


@pytest.mark.parametrize(
  ("path", "value", "named"),
  [
    *(
      ("normalizer", {"type": kind, **rest}, kind)
      for kind, rest in (
        ("NFKC", {}),
        ("NFD", {}),
        ("NFKD", {}),
        ("Lowercase", {}),
        ("StripAccents", {}),
        ("Strip", {"strip_left": True, "strip_right": True}),
        ("Precompiled", {"precompiled_charsmap": ""}),
        ("BertNormalizer", {"lowercase": False}),
        ("Nmt", {}),
        ("ByteLevel", {}),
        ("Prepend", {"prepend": "x"}),
        ("Replace", {"pattern": {"String": "a"}, "content": "b"}),
        ("Replace", {"pattern": {"Regex": " "}, "content": SPACE}),
      )
    ),
    (
      "normalizer",
      {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]},
      "NFKC",
    ),
    *(
      ("pre_tokenizer", {"type": kind, **rest}, kind)
      for kind, rest in (
        ("Whitespace", {}),
        ("WhitespaceSplit", {}),
        ("BertPreTokenizer", {}),
        ("CharDelimiterSplit", {"delimiter": "-"}),
        ("UnicodeScripts", {}),
        ("FixedLength", {"length": 5}),
      )
    ),
    ("pre_tokenizer", _sequence(_LEVEL, _SPLIT), "'Split' after 'ByteLevel'"),
    (
      "pre_tokenizer",
      _sequence(_SPLIT, _LEVEL | {"add_prefix_space": True}),
      "add_prefix_space inside a sequence",
    ),
    ("pre_tokenizer", _SPLIT | {"behavior": "Removed"}, "removes"),
    ("pre_tokenizer", _SPLIT | {"behavior": "Shuffled"}, "'Shuffled'"),
    ("pre_tokenizer", _SPLIT | {"new": 1}, "a split with 'new'"),
    ("pre_tokenizer", _SPLIT | {"pattern": {"Glob": "*"}}, "'Glob'"),
    (
      "pre_tokenizer",
      {"type": "Punctuation", "behavior": "Removed"},
      "'Punctuation' that removes",
    ),
    (
      "pre_tokenizer",
      {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"},
      "'Metaspace' with '_'",
    ),
    (
      "pre_tokenizer",
      _sequence(_SPLIT, {"type": "Metaspace", "prepend_scheme": "first"}),
      "'Metaspace' that prepends",
    ),
    ("model.dropout", 0.1, "BPE with dropout"),
    ("model.continuing_subword_prefix", "##", "continuing_subword_prefix"),
    ("model.end_of_word_suffix", "</w>", "end_of_word_suffix '</w>'"),
    ("model.cache_size", 5, "the BPE model with 'cache_size'"),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}}, "'WordLevel'"),
    ("added_tokens", _added(lstrip=True), "'zz' with 'lstrip'"),
    ("added_tokens", _added(rstrip=True), "'zz' with 'rstrip'"),
    ("added_tokens", _added(single_word=True), "'zz' with 'single_word'"),
    ("added_tokens", _added(content=""), "added token without text"),
    ("post_processor", {"type": "Novel"}, "the post-processor 'Novel'"),
    ("surprise", {}, "the tokenizer with 'surprise'"),
  ],
)
def test_what_is_not_known_is_refused_by_name(path, value, named, tmp_path):
  file = tmp_path / "tokenizer.json"
  file.write_text(json.dumps(edited("gpt2", path, value)))
  with pytest.raises(UnsupportedTokenizerError) as caught:
    read_spec(file)
  assert named in str(caught.value)
  assert "cannot compile exactly" in str(caught.value)


@pytest.mark.parametrize(
  ("pattern", "named"),
  [
    (r"(a)\1", r"\\1"),
    (r"a(?=bc)", "look-ahead at more than one character"),
    (r"(?<=a)b", r"'\(\?<='"),
    (r"(?>a)b", r"'\(\?>a'"),
    (r"^a", r"'\^'"),
    (r"a\bb", r"\\b"),
    (r"(?:ab)++c", "possessive repeat of more than a character"),
    (r"a{2,9999}", "enormous repeat"),
    (r"(a", "unclosed '\\('"),
    (r"a)", "unmatched '\\)'"),
    (r"[a", r"unclosed '\['"),
    (r"a*", "matches the empty text"),
  ],
)
def test_a_regex_that_cannot_be_compiled_is_named(pattern, named, tmp_path):
  part = _SPLIT | {"pattern": {"Regex": pattern}}
  level = _LEVEL | {"use_regex": False}
  data = edited("gpt2", "pre_tokenizer", _sequence(part, level))
  file = tmp_path / "tokenizer.json"
  file.write_text(json.dumps(data))
  with pytest.raises(UnsupportedTokenizerError, match=named):
    load_tables(file)


def test_a_byte_fallback_with_holes():
  data = entry("llama2")
  del data["model"]["vocab"]["<0x41>"]
  with pytest.raises(UnsupportedTokenizerError, match="fallback that lacks 1"):
    huggingface.from_json(data)


def test_an_added_token_behind_a_prefix_space():
  token = _added(id=999)
  data = entry("prefix_space")
  data["added_tokens"] += token
  with pytest.raises(UnsupportedTokenizerError, match="'zz' in a tokenizer"):
    huggingface.from_json(data)


def test_a_limit_on_words():
  vocab = {"[UNK]": 0, "a": 1, "##b": 2}
  data = {
    "model": {
      "type": "WordPiece",
      "vocab": vocab,
      "unk_token": "[UNK]",
      "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 100,
    }
  }
  with pytest.raises(UnsupportedTokenizerError, match="per_word=100"):
    huggingface.from_json(data)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "is not valid JSON"),
    ("{", "is not valid JSON"),
    ("\x00\x01", "is not valid JSON"),
    ("[" * 100_000, "is not valid JSON"),
    ("[]", "does not hold a JSON object"),
    ("7", "does not hold a JSON object"),
    ("{}", "KeyError 'model'"),
    ('{"model": 3}', "is not a tokenizer"),
    ('{"model": {"type": "BPE"}}', "KeyError 'vocab'"),
    ('{"model": {"type": "BPE", "vocab": [], "merges": []}}', "not a token"),
    ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "not a token"),
    (
      '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},'
      ' "added_tokens": [{"id": 1}]}',
      "KeyError 'special'",
    ),
    ('{"model": {"vocab": {"a": 0}, "merges": []}, "normalizer": 3}', "TypeE"),
    (
      '{"model": {"type": "Unigram", "vocab": [["a"]]}}',
      "is not a tokenizer",
    ),
  ],
)
def test_broken_files_are_named(text, message, tmp_path):
  file = tmp_path / "tokenizer.json"
  file.write_text(text)
  with pytest.raises(CheckpointError) as caught:
    read_spec(file)
  assert str(file) in str(caught.value) and message in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path):
  file = tmp_path / "tokenizer.json"
  file.write_bytes(b'{"\xff": 1}')
  with pytest.raises(CheckpointError, match="is not valid JSON"):
    read_spec(file)


@pytest.mark.parametrize(
  "ids", [{"a": -1}, {"a": 2**40}, {"a": "0"}, {"a": 1.5}, {"a": None}]
)
def test_absurd_ids(ids, tmp_path):
  file = tmp_path / "tokenizer.json"
  file.write_text(
    json.dumps({"model": {"type": "BPE", "vocab": ids, "merges": []}})
  )
  with pytest.raises(CheckpointError, match="token ids that are no ids"):
    read_spec(file)


@pytest.mark.parametrize("merge", ["a q", "q a", "a", "a a a", ["a", "q"]])
def test_merges_that_name_what_is_not_there(merge):
  data = entry("gpt2")
  data["model"]["merges"] = [merge]
  with pytest.raises(CheckpointError, match="merges name what is not in"):
    huggingface.from_json(data)


def test_files_that_are_not_there(tmp_path):
  with pytest.raises(CheckpointError, match=r"no tokenizer\.json in"):
    read_spec(tmp_path / "tokenizer.json")
  with pytest.raises(CheckpointError, match=r"neither a tokenizer\.json nor"):
    load_tables(tmp_path)
  (tmp_path / "tokenizer.pkl").write_bytes(b"")
  with pytest.raises(CheckpointError, match="not a tokenizer that byteprob"):
    load_tables(tmp_path / "tokenizer.pkl")


def test_the_files_beside_it_name_what_ends_a_text(tmp_path):
  (tmp_path / "tokenizer.json").write_text(json.dumps(entry("gpt2")))
  spec = read_spec(tmp_path / "tokenizer.json")
  start, end = spec.special["<s>"], spec.special["</s>"]
  assert (spec.start, spec.end) == ((), ())
  for name, content in (
    ("generation_config.json", {"eos_token_id": [end, start]}),
    ("config.json", {"text_config": {"eos_token_id": 3}}),
    (
      "tokenizer_config.json",
      {
        "eos_token": {"content": "</s>"},
        "bos_token": "<s>",
        "add_bos_token": True,
      },
    ),
  ):
    (tmp_path / name).write_text(json.dumps(content))
  spec = read_spec(tmp_path / "tokenizer.json")
  assert (spec.start, spec.end) == ((start,), (end, start, 3))
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(CheckpointError, match=r"config\.json does not hold"):
    read_spec(tmp_path / "tokenizer.json")
