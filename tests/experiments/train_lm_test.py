"""Host: the data, the tokenizers, and a tiny training from end to end."""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import byteprob
from byteprob import tokenization
from byteprob.models import decoder, gguf
from experiments import (
  _corpus,
  _data,
  _export,
  _gguf,
  _lm,
  _runtime,
  _tokenizers,
)

ROOT = pathlib.Path(_runtime.__file__).parents[1]

TEXTS = (
  "import os\n\n\nclass Walk:\n  def __init__(self, root):\n"
  "    self.root = root\n\n  def __iter__(self):\n"
  "    for name in sorted(os.listdir(self.root)):\n      yield name, 12345\n",
  "def f(x, y=None):\n\t'''Adds — é, ∑, 漢字, 🙂.'''\n\treturn x + y\r\n",
  "s = '<s>not special</s> <|endoftext|> <|fim_middle|>'\n" * 3,
  "  leading and trailing spaces  ",
)


@pytest.fixture(scope="module", params=sorted(_tokenizers.TRAINERS))
def tokenizer(request, tmp_path_factory):
  """A small tokenizer of each kind, as read from its file."""
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
  _tokenizers.TRAINERS[request.param](TEXTS * 3, 420).save(str(path))
  return _data.load_tokenizer(path)


@pytest.fixture
def markers(tokenizer):
  return _tokenizers.markers(tokenizer)


# Tokenizers ------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(_tokenizers.TRAINERS))
def test_training_a_tokenizer_is_deterministic(kind):
  train = _tokenizers.TRAINERS[kind]
  assert train(TEXTS, 420).to_str() == train(TEXTS, 420).to_str()


def test_every_text_comes_back(tokenizer):
  ids = _data.encode(tokenizer, TEXTS)
  assert tuple(tokenizer.decode_batch(ids)) == TEXTS


def test_special_tokens_in_a_text_are_text(tokenizer, markers):
  special = {i for i, t in tokenizer.get_added_tokens_decoder().items()}
  assert {markers.start, markers.end, markers.middle} <= special
  for ids in _data.encode(tokenizer, TEXTS):
    assert not special & set(ids)


def test_a_text_starts_with_the_start(tokenizer, markers):
  assert tokenizer.encode("x").ids[0] == markers.start


def test_byte_level_has_every_byte():
  vocab = _tokenizers.train_byte_level(["x"], 300).get_vocab()
  assert len([t for t in vocab if len(t) == 1]) == 256


def test_byte_fallback_is_laid_out_as_llama_2():
  tokenizer = _tokenizers.train_byte_fallback(TEXTS, 420)
  spec = json.loads(tokenizer.to_str())
  model = spec["model"]
  order = sorted(model["vocab"], key=model["vocab"].get)
  assert order[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
  assert order[258] == "<0xFF>" and len(order[259]) == 2
  assert spec["pre_tokenizer"] is None
  assert model["byte_fallback"] and model["fuse_unk"]
  # Any two tokens that join to a token merge, earlier tokens first.
  ranks = [model["vocab"]["".join(pair)] for pair in model["merges"]]
  assert ranks == sorted(ranks)
  assert len(ranks) == sum(
    (t[:i] in model["vocab"]) + (t[i:] in model["vocab"]) == 2
    for t in order[259:]
    if t not in _tokenizers.FIM_TOKENS
    for i in range(1, len(t))
  )
  assert tokenizer.encode("é", add_special_tokens=False).tokens == [
    "▁",
    "<0xC3>",
    "<0xA9>",
  ]


def test_continuing_adds_no_space(tokenizer):
  [ids] = _data.encode(_data.continuing(tokenizer), ["x"])
  assert [tokenizer.id_to_token(i) for i in ids] == ["x"]


# Documents -------------------------------------------------------------------


def test_pieces_join_to_the_text():
  rng = np.random.default_rng(0)
  for text in TEXTS:
    for _ in range(20):
      pieces = _data.cut(text, (3, 60), rng)
      assert "".join(pieces) == text and all(pieces)


def test_parts_join_to_the_text():
  rng = np.random.default_rng(0)
  splits = {_data.split("abc", rng) for _ in range(500)}
  assert all("".join(parts) == "abc" for parts in splits)
  assert len(splits) == 10, "every split occurs"


def read_back(tokenizer, markers, ids):
  """The order of a document's parts, and its text."""
  at = {
    marker: ids.index(marker) for marker in (markers.suffix, markers.middle)
  }
  assert ids[0] == markers.prefix
  prefix = ids[1 : at[markers.suffix]]
  suffix = ids[at[markers.suffix] + 1 : at[markers.middle]]
  middle = ids[at[markers.middle] + 1 :]
  decode = tokenizer.decode
  if prefix or at[markers.suffix] > 1:
    return "PSM", decode(prefix) + decode(middle) + decode(suffix)
  # Prefix and middle are one text here.
  return "PSM or SPM", decode(middle) + decode(suffix)


def test_fill_in_the_middle(tokenizer, markers):
  rng = np.random.default_rng(0)
  texts = TEXTS * 25
  documents = _data.fill_in_the_middle(tokenizer, markers, texts, rng)
  modes = collections.Counter()
  for text, ids in zip(texts, documents, strict=True):
    mode, back = read_back(tokenizer, markers, ids)
    modes[mode] += 1
    assert back == text
    for marker in (markers.prefix, markers.suffix, markers.middle):
      assert ids.count(marker) == 1
  assert min(modes.values()) > 30, modes


def test_fill_in_the_middle_tokenizes_apart(tokenizer, markers):
  rng = np.random.default_rng(1)
  [text] = ["return " * 8]
  for _ in range(20):
    state = rng.bit_generator.state
    [ids] = _data.fill_in_the_middle(tokenizer, markers, [text], rng)
    after = rng.bit_generator.state
    rng.bit_generator.state = state
    parts = _data.split(text, rng)
    psm = bool(rng.integers(0, 2, size=1)[0])
    assert rng.bit_generator.state == after
    prefix, middle, suffix = _data.encode(tokenizer, parts)
    if psm:
      want = [markers.prefix, *prefix, markers.suffix, *suffix]
      want += [markers.middle, *middle]
    else:
      if parts[0]:
        [middle] = _data.encode(_data.continuing(tokenizer), [parts[1]])
      want = [markers.prefix, markers.suffix, *suffix, markers.middle]
      want += [*prefix, *middle]
    assert ids == want


def test_jointly_tokenized_documents(tokenizer, markers):
  rng = np.random.default_rng(2)
  texts = ["return " * 8] * 40
  state = rng.bit_generator.state
  documents = _data.fill_in_the_middle(
    tokenizer, markers, texts, rng, joint=True
  )
  rng.bit_generator.state = state
  splits = [_data.split(text, rng) for text in texts]
  psm = rng.integers(0, 2, size=40).astype(bool)
  whole = 0
  for (prefix, middle, suffix), first, ids in zip(
    splits, psm, documents, strict=True
  ):
    p, m, s, both = _data.encode(
      tokenizer, [prefix, middle, suffix, prefix + middle]
    )
    if first:
      want = [markers.prefix, *p, markers.suffix, *s, markers.middle, *m]
    else:
      want = [markers.prefix, markers.suffix, *s, markers.middle, *both]
      whole += len(both) < len(p) + len(m)
    assert ids == want
  assert whole > 5, "tokens go across the cut"


@pytest.mark.parametrize("loose", [0, 3, 40, 200])
def test_packing_loses_and_repeats_no_token(loose):
  rng = np.random.default_rng(loose)
  sizes = rng.integers(1, 17, size=30)
  numbers = iter(range(1, 10_000))
  whole = [[next(numbers) for _ in range(size)] for size in sizes]
  stream = [next(numbers) for _ in range(loose)]
  rows = _data.pack(whole, stream, start=0, context=16)
  assert rows.dtype == np.int32 and rows.shape[1] == 17
  assert (rows[:, 0] == 0).all()
  body = rows[:, 1:]
  used = body[body != _data.PAD].tolist()
  assert sorted(used) == list(range(1, next(numbers)))
  lines = [row.tolist() for row in body]
  for document in whole:
    assert any(
      row[i : i + len(document)] == document
      for row in lines
      for i in range(len(row))
    )
  assert [n for n in used if n > sum(sizes)] == stream
  # Nothing follows padding in a row, and all that was loose came before it.
  padded = body == _data.PAD
  assert (padded[:, 1:] >= padded[:, :-1]).all()


def test_packing_nothing():
  assert _data.pack([], [], start=0, context=4).shape == (0, 5)


def test_packing_what_does_not_fit():
  with pytest.raises(ValueError, match="do not fit"):
    _data.pack([[1] * 5], [], start=0, context=4)


def test_epochs_differ_and_repeat(tokenizer, markers):
  def make(number):
    return _data.epoch(
      tokenizer,
      markers,
      TEXTS * 4,
      context=32,
      fim_share=0.5,
      joint=False,
      sizes=(10, 40),
      rng=np.random.default_rng((7, number)),
    )

  def rows(count):
    return _data.take(_data.epochs(make, 1), count)

  many = rows(150)
  np.testing.assert_array_equal(many[:20], rows(20))
  assert many.shape == (150, 33)
  assert (many == markers.middle).any()
  first = {row.tobytes() for row in many[:60]}
  assert len(first & {row.tobytes() for row in many[90:]}) < 20


@pytest.mark.slow
def test_epochs_of_several_processes_come_in_order():
  make = functools.partial(np.full, (3, 2))
  with contextlib.closing(_data.epochs(make, 2)) as blocks:
    rows = _data.take(blocks, 20)
  np.testing.assert_array_equal(rows[:, 0], np.arange(20) // 3)


def test_the_corpus_is_split_by_path(tmp_path):
  for i in range(200):
    (tmp_path / f"m{i:03d}.py").write_text(f"x = {i}\n")
  for name in ("test", "site-packages"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.py").write_text("left out\n")
  (tmp_path / "empty.py").touch()
  (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
  corpus = _corpus.read_corpus(str(tmp_path))
  assert len(corpus.train) + len(corpus.valid) == 200
  assert 1 <= len(corpus.valid) <= 20
  assert corpus == _corpus.read_corpus(str(tmp_path))
  (tmp_path / "m000.py").write_text("x = 1\n")
  assert corpus.sha256 != _corpus.read_corpus(str(tmp_path)).sha256


def test_no_corpus(tmp_path):
  with pytest.raises(byteprob.ByteprobError, match="too few"):
    _corpus.read_corpus(str(tmp_path))
  with pytest.raises(byteprob.ByteprobError, match="no directory"):
    _corpus.read_corpus(str(tmp_path / "none"))


PROMPT = (
  "import os\n\n\ndef helper(x):\n  return x\n\n\n"
  'def parent(path: str) -> str:\n    """ The directory that a path is in.\n'
  "    >>> parent('a/b')\n    'a'\n    \"\"\"\n"
)
BODY = "    head, slash, tail = path.rpartition('/')\n    return head + slash\n"


def write_functions(path, **changed):
  record = {
    "prompt": PROMPT,
    "entry_point": "parent",
    "canonical_solution": BODY,
  }
  path.write_text(json.dumps(record | changed) + "\n")
  return str(path)


def test_no_file_that_holds_a_function_of_a_benchmark(tmp_path):
  sources = tmp_path / "lib"
  sources.mkdir()
  for i in range(200):
    (sources / f"m{i:03d}.py").write_text(f"def helper(x):\n  return {i}\n")
  without = write_functions(tmp_path / "functions.jsonl")

  def read():
    corpus = _corpus.read_corpus(
      str(tmp_path / "lib"), more=[str(tmp_path / "pkg")], without=without
    )
    return corpus, [*corpus.train, *corpus.valid]

  other = tmp_path / "pkg"
  other.mkdir()
  (other / "kept.py").write_text("def parent(path):\n  return path\n")
  corpus, texts = read()
  assert len(texts) == 201 and corpus.dropped == 0
  assert corpus.source == "sources of lib, pkg"
  # Laid out in another way, inside a class, or its body alone.
  head = PROMPT[PROMPT.index("def parent") :]
  (other / "head.py").write_text("class A:\n" + head.replace("    ", "\t"))
  (other / "body.py").write_text(
    "def f(path):\n" + BODY.replace("    ", "  ").replace(", ", ",")
  )
  corpus, again = read()
  assert again == texts and corpus.dropped == 2


def test_short_bodies_tell_nothing(tmp_path):
  path = write_functions(
    tmp_path / "f.jsonl", canonical_solution="    return x\n"
  )
  [head] = _corpus.functions(path)
  assert head.startswith("defparent(path:str)->str:")


def test_functions_that_are_none(tmp_path):
  path = write_functions(tmp_path / "f.jsonl", entry_point="child")
  with pytest.raises(byteprob.ByteprobError, match=r"f\.jsonl:1: .*'child'"):
    _corpus.functions(path)


# Files of a run --------------------------------------------------------------


def test_records_survive_a_kill(tmp_path):
  workdir = _runtime.Workdir(tmp_path)
  for step in (2, 4, 6):
    workdir.append("m.jsonl", {"step": step})
  with (tmp_path / "m.jsonl").open("a") as file:
    file.write('{"step": 8, "lo')
  assert [r["step"] for r in workdir.records("m.jsonl")] == [2, 4, 6]
  workdir.rewind("m.jsonl", 4)
  workdir.append("m.jsonl", {"step": 6, "again": True})
  assert len(workdir.records("m.jsonl")) == 3
  assert workdir.records("m.jsonl")[-1]["again"]


# A run -----------------------------------------------------------------------


def load_config(variant):
  """What `--config=configs/train_lm.py:variant` gives."""
  spec = importlib.util.spec_from_file_location(
    "train_lm_config", ROOT / "configs" / "train_lm.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


@pytest.mark.parametrize("variant", ["bpe", "spm", "tiny", "fim", "fim30m"])
def test_configurations(variant):
  recipe = _lm.recipe_of(load_config(variant))
  shapes = jax.eval_shape(lambda: _lm.init_state(recipe)["params"])
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  least, most = {
    "bpe": (2.0e6, 2.6e6),
    "spm": (1.2e6, 1.5e6),
    "tiny": (1e4, 1e5),
    "fim": (2.0e6, 2.6e6),
    # At most 60 MB in bfloat16.
    "fim30m": (28e6, 30e6),
  }[variant]
  assert least < size < most
  assert recipe.tokens_after(recipe.steps) == sum(
    stage.steps * stage.batch * stage.context for stage in recipe.stages
  )


def test_an_unknown_configuration():
  with pytest.raises(ValueError, match="spm, tiny, fim and fim30m"):
    load_config("huge")


def command(workdir, *more):
  return [
    sys.executable,
    "-m",
    "experiments.train_lm",
    "--config=configs/train_lm.py:tiny",
    f"--workdir={workdir}",
    *more,
  ]


def run(workdir, *more, **environment):
  return subprocess.run(
    command(workdir, *more),
    cwd=ROOT,
    # All runs of a module compile alike, whichever test starts them.
    env={
      **os.environ,
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir of a run that nothing disturbed, with `hf` and `results`."""
  workdir = tmp_path_factory.mktemp("run")
  done = run(
    workdir, f"--export={workdir / 'hf'}", f"--results={workdir / 'results'}"
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return workdir


def weights(workdir):
  """Parameters and optimizer state of a run's last checkpoint, as saved."""
  import orbax.checkpoint as ocp

  with ocp.CheckpointManager(workdir / "checkpoints") as manager:
    assert manager.latest_step() == 16
    return manager.restore(16, args=ocp.args.StandardRestore())


def without_time(workdir, name):
  records = _runtime.Workdir(workdir).records(name)
  return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def test_a_killed_run_ends_with_the_same_bits(finished, tmp_path):
  with subprocess.Popen(
    command(tmp_path),
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as process:
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "4").exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  assert not (tmp_path / "checkpoints" / "16").exists()
  resumed = run(tmp_path)
  assert resumed.returncode == 0, resumed.stderr[-2000:]
  assert "resuming after step" in resumed.stderr

  want, got = weights(finished), weights(tmp_path)
  assert jax.tree.structure(want) == jax.tree.structure(got)
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_array_equal(a, b)
  for name in ("metrics.jsonl", "valid.jsonl"):
    assert without_time(tmp_path, name) == without_time(finished, name)
  for name in ("summary.json", "data.json", "config.json"):
    assert (tmp_path / name).read_text() == (finished / name).read_text()


def test_gradients_where_attention_has_no_choice():
  """The first row sees itself alone: queries and keys change nothing."""
  recipe = _lm.recipe_of(load_config("tiny"))
  params = _lm.init_state(recipe)["params"]

  def loss(params):
    return _lm.loss_sums(recipe, params, np.asarray([[3, 5]]))[0]

  grads = jax.grad(loss)(params)["layer_0"]["attention"]
  size = {name: abs(leaf["weight"]).max() for name, leaf in grads.items()}
  assert size["value"] > 1e-2
  assert size["query"] < 1e-6 and size["key"] < 1e-6


def test_the_loss_falls(finished):
  losses = [r["loss"] for r in without_time(finished, "metrics.jsonl")]
  assert losses[-1] < losses[0] - 0.2


def test_figures_without_a_device(finished):
  figure = finished / "figures" / "loss.png"
  figure.unlink()
  done = run(finished, "--figures_only", JAX_PLATFORMS="there_is_no_device")
  assert done.returncode == 0, done.stderr[-2000:]
  assert figure.read_bytes().startswith(b"\x89PNG")


def test_another_configuration_is_refused(finished):
  done = run(finished, "--config.seed=1")
  assert done.returncode != 0
  assert "another configuration (they differ in seed)" in done.stderr


def test_results(finished):
  names = {path.name for path in (finished / "results").iterdir()}
  assert names == {"loss.csv", "loss.png", "training.json"}
  history = json.loads((finished / "hf" / "training.json").read_text())
  assert history["steps"] == 16
  assert history["config"]["vocab_size"] == 512
  result = history["result"]
  assert 0 < result["valid_bits_per_byte"] < 8
  assert str(finished) not in json.dumps(history), "no paths of this machine"


def last_params(finished):
  """Parameters as the export rounds them."""
  return _export.round_params(weights(finished)["params"])


def test_the_export_loads_in_transformers(finished):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  directory = finished / "hf"
  tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
  text = "def __init__(self):\n  return 1\n"
  ids = tokenizer(text)["input_ids"]
  assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
  assert tokenizer.decode(ids[1:]) == text
  model = transformers.AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32
  )
  with torch.no_grad():
    want = model(torch.tensor([ids])).logits.numpy()
  got = decoder.forward(
    _lm.recipe_of(load_config("tiny")).model,
    last_params(finished),
    np.asarray([ids]),
  )
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_export_loads_here(finished):
  hf = pytest.importorskip("byteprob.models.hf")
  config, params = hf.load_hf(finished / "hf")
  tokens = np.arange(20)[None]
  want = decoder.forward(
    _lm.recipe_of(load_config("tiny")).model, last_params(finished), tokens
  )
  np.testing.assert_allclose(
    decoder.forward(config, params, tokens), want, atol=1e-5
  )


def held(leaf):
  """Numbers that blocks of 32 with 8 bits each hold as they are."""
  if leaf.ndim == 1:
    return leaf
  whole = np.random.default_rng(0).integers(-127, 128, leaf.shape)
  whole[:, ::32] = 127
  return (whole / 2**12).astype(np.float32)


def test_a_gguf_file_holds_the_model(finished, tmp_path):
  want = jax.tree.map(held, last_params(finished))
  file = tmp_path / "m.gguf"
  own = _lm.recipe_of(load_config("tiny")).model
  _gguf.write(file, own, want, finished / "tokenizer.json")
  config, params = gguf.load_gguf(file)
  jax.tree.map(np.testing.assert_array_equal, params, want)
  tokens = np.arange(20)[None]
  np.testing.assert_allclose(
    decoder.forward(config, params, tokens),
    decoder.forward(own, want, tokens),
    atol=1e-5,
  )
  spec = tokenization.read_spec(file)
  original = tokenization.read_spec(finished / "hf" / "tokenizer.json")
  np.testing.assert_equal(
    dataclasses.asdict(spec), dataclasses.asdict(original)
  )
  assert not spec.nfc, "which the name of its pre-tokenizer stands for"


def test_only_byte_level_models_are_written_as_gguf(tmp_path):
  path = tmp_path / "tokenizer.json"
  _tokenizers.train_byte_fallback(TEXTS, 420).save(str(path))
  with pytest.raises(byteprob.ByteprobError, match="to a directory instead"):
    _gguf.write(tmp_path / "m.gguf", None, None, path)
  assert not (tmp_path / "m.gguf").exists()
