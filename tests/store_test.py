"""Host: files that appear whole or not at all."""

import errno
import os
import pathlib
import threading

import pytest

from byteprob import store


def test_the_directory_is_where_it_is_said_to_be(monkeypatch):
  monkeypatch.setenv("BYTEPROB_CACHE", "/a/b")
  assert store.cache_dir() == pathlib.Path("/a/b")
  monkeypatch.setenv("BYTEPROB_CACHE", "")
  monkeypatch.setenv("XDG_CACHE_HOME", "/x")
  assert store.cache_dir() == pathlib.Path("/x/byteprob")
  monkeypatch.delenv("BYTEPROB_CACHE")
  monkeypatch.setenv("XDG_CACHE_HOME", "")
  monkeypatch.setenv("HOME", "/home/me")
  assert store.cache_dir() == pathlib.Path("/home/me/.cache/byteprob")
  monkeypatch.setenv("BYTEPROB_CACHE", "~/here")
  assert store.cache_dir() == pathlib.Path("/home/me/here")


def test_it_is_there_at_the_end_and_not_before(tmp_path):
  target = tmp_path / "deep" / "file"
  with store.atomic_path(target) as part:
    part.write_bytes(b"half")
    assert not target.exists() and part.parent == target.parent
  assert target.read_bytes() == b"half"
  assert list(target.parent.iterdir()) == [target]


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
  target = tmp_path / "file"
  target.write_bytes(b"old")
  with pytest.raises(RuntimeError), store.atomic_path(target) as part:
    part.write_bytes(b"new, in par")
    raise RuntimeError
  assert target.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [target]
  with store.atomic_path(target) as part:
    part.write_bytes(b"new")
  assert target.read_bytes() == b"new"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

  with (
    pytest.raises(OSError, match="No space"),
    store.atomic_path(tmp_path / "file"),
  ):
    full()
  monkeypatch.setattr(os, "replace", full)
  with (
    pytest.raises(OSError, match="No space"),
    store.atomic_path(tmp_path / "file") as part,
  ):
    part.write_bytes(b"data")
  assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  with pytest.raises(OSError), store.atomic_path(tmp_path / "file" / "x"):
    raise AssertionError("there is nowhere to write")


def test_files_have_the_usual_mode(tmp_path):
  before = os.umask(0o027)
  try:
    with store.atomic_path(tmp_path / "file") as part:
      assert part.stat().st_mode & 0o777 == 0o600
    assert os.umask(0o027) == 0o027
  finally:
    os.umask(before)
  assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_directory_is_there_at_the_end_and_not_before(tmp_path):
  target = tmp_path / "deep" / "it"
  with pytest.raises(RuntimeError), store.atomic_directory(target) as part:
    (part / "sub").mkdir()
    (part / "sub" / "file").write_bytes(b"half")
    raise RuntimeError
  assert not list(target.parent.iterdir())
  before = os.umask(0o027)
  try:
    with store.atomic_directory(target) as part:
      (part / "file").write_bytes(b"whole")
      assert not target.exists() and part.parent == target.parent
  finally:
    os.umask(before)
  assert target.stat().st_mode & 0o777 == 0o750
  assert (target / "file").read_bytes() == b"whole"
  assert list(target.parent.iterdir()) == [target]
  with (
    pytest.raises(FileExistsError, match="name another directory, or delete"),
    store.atomic_directory(target),
  ):
    raise AssertionError("there is something")
  assert (target / "file").read_bytes() == b"whole"


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
  target = tmp_path / "file"
  begin = threading.Barrier(8)
  seen = []

  def write(number: int):
    begin.wait()
    for _ in range(20):
      with store.atomic_path(target) as part:
        part.write_bytes(bytes([number]) * 5000)
      seen.append(target.read_bytes())

  threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(seen) == 160
  assert all(len(data) == 5000 and len(set(data)) == 1 for data in seen)
  assert list(tmp_path.iterdir()) == [target]
