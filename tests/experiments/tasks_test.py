"""Host: benchmark data, whole and broken."""

import bz2
import gzip
import json

import pytest

from byteprob.errors import ByteprobError
from experiments import _tasks


def write(path, *rows) -> str:
  """A `.jsonl` file, or a text of the rows that are strings."""
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return str(path)


def test_data_as_they_are_published(tmp_path):
  goal = {"goal": "Boil an egg", "sol1": "Use water.", "sol2": "Use sand."}
  files = [write(tmp_path / "valid.jsonl", goal, goal)]
  files.append(write(tmp_path / "labels.lst", "0", "1"))
  first, second = _tasks.read("piqa", "+".join(files), 0)
  assert first.context == "Question: Boil an egg\nAnswer:"
  assert first.choices == (" Use water.", " Use sand.")
  assert (first.answer, second.answer) == (0, 1)

  lines = ["She swims", "2", "far.", "fast.", "é.", "up."]
  (found,) = _tasks.read("hellaswag", write(tmp_path / "plain.txt", *lines), 0)
  row = {"ctx": lines[0], "endings": lines[2:], "label": "2"}
  (same,) = _tasks.read("hellaswag", write(tmp_path / "h.jsonl", row), 0)
  assert found == same
  assert found.choices[found.answer] == " é."

  sum_ = {"question": "1 + 1?", "answer": "2"}
  (found,) = _tasks.read("gsm8k", write(tmp_path / "g.jsonl", sum_), 0)
  assert found == _tasks.Item("Question: 1 + 1?\nAnswer:", (" 2",))
  code = {"text": "Add.", "code": "a = 1\r\n"}
  (found,) = _tasks.read("mbpp", write(tmp_path / "m.jsonl", code), 0)
  assert found == _tasks.Item('"""\nAdd.\n"""\n', ("a = 1\n",))

  line = "A long line of words " * 9 + "that ends here."
  (found,) = _tasks.read(
    "last_word", write(tmp_path / "t.txt", "short", line), 0
  )
  assert found.choices == (" here",)
  assert found.context == line.removesuffix(" here.")


def test_packed_files_and_parts(tmp_path):
  rows = [{"question": str(k), "answer": "1"} for k in range(10)]
  text = "\n".join(map(json.dumps, rows))
  for name, pack in (
    ("a.jsonl.gz", gzip.compress),
    ("a.jsonl.bz2", bz2.compress),
  ):
    (tmp_path / name).write_bytes(pack(text.encode()))
    found = _tasks.read("gsm8k", str(tmp_path / name), 3)
    assert [item.context[10] for item in found] == ["0", "3", "6"]


@pytest.mark.parametrize(
  ("task", "rows", "message"),
  [
    ("gsm8k", [{"question": "a", "answer": "b"}, "{"], ":2: this is no JSON"),
    ("gsm8k", [{"question": "a"}], ":1: 'answer' is missing"),
    ("gsm8k", ["[1]"], ":1: '{...}' is missing"),
    ("gsm8k", [{"question": "a", "answer": 3}], ":1: 'answer' must be a str"),
    ("gsm8k", ["[" * 100_000], ":1: this is no JSON"),
    ("hellaswag", ["a", "7", "b", "c", "d", "e"], ":2: a label is 0 to 3"),
    ("hellaswag", ["a", "1", "b"], ":1: the last item has 3 of 6 lines"),
    ("last_word", ["short"], "has nothing for last_word"),
    ("nothing", [], "there is no task 'nothing': name one of piqa"),
    ("piqa", [], "piqa takes another number of files"),
  ],
)
def test_what_is_broken_is_named_by_file_and_line(
  tmp_path, task, rows, message
):
  path = write(tmp_path / "data", *rows)
  with pytest.raises(ByteprobError) as caught:
    _tasks.read(task, path, 0)
  assert message in str(caught.value)


def test_what_cannot_be_read_is_named_too(tmp_path):
  broken = tmp_path / "b.jsonl.gz"
  row = json.dumps({"question": "a", "answer": "b"}) * 100
  broken.write_bytes(gzip.compress(row.encode())[:-9])
  with pytest.raises(ByteprobError, match="broken after line"):
    _tasks.read("gsm8k", str(broken), 0)
  latin = tmp_path / "latin.jsonl"
  latin.write_bytes(b'{"question": "\xe9"}\n')
  with pytest.raises(ByteprobError, match=r"latin\.jsonl:1: this is not UTF-8"):
    _tasks.read("gsm8k", str(latin), 0)
  goal = {"goal": "a", "sol1": "b", "sol2": "c"}
  files = write(tmp_path / "p.jsonl", goal), write(tmp_path / "l.lst", "0", "1")
  with pytest.raises(ByteprobError, match="are not equally long"):
    _tasks.read("piqa", "+".join(files), 0)
  files = files[0], write(tmp_path / "l.lst", "2")
  with pytest.raises(ByteprobError, match=r"l\.lst:1: a label is 0 or 1"):
    _tasks.read("piqa", "+".join(files), 0)
