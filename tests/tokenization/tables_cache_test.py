"""Host: compiled tables are kept, and nothing broken is ever trusted."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import tokenizers_zoo

from byteprob import tokenization
from byteprob.tokenization import cache, load_tables

ROOT = pathlib.Path(tokenization.__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
  """A cache of this test's own."""
  monkeypatch.setenv("BYTEPROB_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache" / "tables"


@pytest.fixture
def file(tmp_path):
  """A tiny tokenizer."""
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(tokenizers_zoo.ZOO["gpt2"]().json))
  return path


@pytest.fixture
def compiled(monkeypatch):
  """How often tables have been compiled."""
  calls = []
  compile_tables = tokenization.compile_tables

  def counting(*args, **kwargs):
    calls.append(kwargs)
    return compile_tables(*args, **kwargs)

  monkeypatch.setattr(tokenization, "compile_tables", counting)
  return calls


def same(one, other) -> None:
  """Checks that tables are equal, types and static fields included."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  assert one.info.__dict__ == other.info.__dict__
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_tables_are_compiled_once(home, file, compiled):
  first = load_tables(file)
  (kept,) = home.iterdir()
  same(load_tables(file), first)
  assert len(compiled) == 1
  # On disk there are arrays and JSON: nothing that can run.
  assert kept.suffix == ".safetensors"
  assert safetensors.numpy.load_file(kept)


@pytest.mark.parametrize("name", ["llama2", "newline_runs", "composed"])
def test_tables_come_back_as_they_were(name, home, tmp_path, compiled):
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(tokenizers_zoo.ZOO[name]().json))
  first = load_tables(path)
  same(load_tables(path), first)
  assert len(compiled) == 1


def test_everything_that_matters_is_in_the_key(
  home, file, compiled, monkeypatch
):
  load_tables(file)
  load_tables(file, utf8="any")
  load_tables(file)
  assert len(compiled) == 2
  (file.parent / "generation_config.json").write_text('{"eos_token_id": 3}')
  assert load_tables(file).end_ids.tolist() == [3]
  (file.parent / "generation_config.json").write_text('{"eos_token_id": 4}')
  assert load_tables(file).end_ids.tolist() == [4]
  assert len(compiled) == 4
  file.write_text(file.read_text() + "\n")
  load_tables(file)
  assert len(compiled) == 5
  monkeypatch.setattr(tokenization, "VERSION", -1)
  load_tables(file)
  assert len(compiled) == 6
  monkeypatch.setattr(tokenizers, "__version__", "0")
  load_tables(file)
  assert len(compiled) == 7
  assert len(list(home.iterdir())) == 7
  load_tables(file)
  assert len(compiled) == 7


def _cut(data: bytes) -> bytes:
  return data[: len(data) // 2]


def _header(change):
  """Changes the JSON of the static fields."""

  def harm(data: bytes) -> bytes:
    arrays = safetensors.numpy.load(data)
    size = int.from_bytes(data[:8], "little")
    static = json.loads(data[8 : 8 + size])["__metadata__"]["static"]
    static = json.loads(static)
    change(static, arrays)
    return safetensors.numpy.save(arrays, {"static": json.dumps(static)})

  return harm


@pytest.mark.parametrize(
  "harm",
  [
    _cut,
    lambda data: b"",
    lambda data: b"\xff" * 8 + data[8:],
    lambda data: (2**62).to_bytes(8, "little") + data[8:],
    lambda data: data + b"more",
    lambda data: b"\x80\x04." + data,
    lambda data: safetensors.numpy.save({"x": np.zeros(1)}),
    lambda data: safetensors.numpy.save({"x": np.zeros(1)}, {"static": "{"}),
    _header(lambda static, arrays: static.pop("rule")),
    _header(lambda static, arrays: static["info"].pop("nfc")),
    _header(lambda static, arrays: static["info"].update(odd=1)),
    _header(lambda static, arrays: arrays.pop("token_id")),
    _header(lambda static, arrays: arrays.pop("bpe.spine")),
  ],
)
def test_a_broken_file_is_compiled_again(harm, home, file, compiled):
  first = load_tables(file)
  (kept,) = home.iterdir()
  kept.write_bytes(harm(kept.read_bytes()))
  same(load_tables(file), first)
  assert len(compiled) == 2
  load_tables(file)
  assert len(compiled) == 2


def test_a_cache_that_cannot_be_written(tmp_path, file, monkeypatch):
  (tmp_path / "cache").write_text("a file, where a directory should be")
  monkeypatch.setenv("BYTEPROB_CACHE", str(tmp_path / "cache"))
  with pytest.warns(UserWarning, match="not kept: .*Set BYTEPROB_CACHE to"):
    tables = load_tables(file)
  assert len(tables.token_id)
  assert (tmp_path / "cache").is_file()


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_full_or_read_only_disk(code, where, home, file, monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError(code, os.strerror(code))

  with monkeypatch.context() as patch:
    if where == "write":
      patch.setattr(pathlib.Path, "write_bytes", refuse)
    else:
      patch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match=os.strerror(code)):
      tables = load_tables(file)
  assert list(home.iterdir()) == []
  same(load_tables(file), tables)
  assert len(list(home.iterdir())) == 1


def test_two_processes_at_once(home, file):
  program = (
    "import sys; from byteprob.tokenization import load_tables\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "print(len(load_tables(sys.argv[1]).token_id))"
  )
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", program, str(file)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    for _ in range(2)
  ]
  for process in processes:
    assert process.stdout.readline() == "ready\n"
  for process in processes:
    process.stdin.write("\n")
    process.stdin.flush()
  said = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  assert said[0] == said[1] and int(said[0]) > 5
  (kept,) = home.iterdir()
  assert cache.restore(kept) is not None


def test_nothing_is_ever_unpickled():
  """No module of the library names what runs code out of a file."""
  for path in sorted((ROOT / "byteprob").rglob("*.py")):
    text = path.read_text(encoding="utf-8")
    for word in ("import pickle", "torch.load", "joblib", "allow_pickle=True"):
      assert word not in text, f"{path} has {word!r}"
