"""Host: the texts to train on: the standard library's own sources, and more.

What a benchmark asks for must not have been read before: a file that holds
one of its functions is left out (see `functions`).
"""

import dataclasses
import hashlib
import pathlib
import sysconfig
from collections.abc import Iterator, Sequence

from byteprob.errors import ByteprobError
from experiments import _tasks

EXCLUDED = frozenset(
  {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    # Tables of code points, not code: one line each, 65,000 lines.
    "encodings",
  }
)
"""Directories of the standard library that are no part of the corpus."""

GENERATED = ("_sysconfigdata", "config-")
"""How files and directories begin that an interpreter's build writes.

They hold paths of the machine that it was built on.
"""

HELD_OUT = 30
"""Files in a thousand that are kept for validation."""

TELLING = 40
"""Characters of code, white space left out, that nobody writes by chance.

A body as short as `return sum(x**2 for x in xs)` is everywhere, and tells of
no benchmark.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """Texts, split by the hash of each file's path.

  Attributes:
    train: texts to train on, in the order of their paths.
    valid: texts held out.
    sha256: hash of all paths and contents, in order.
    source: what they are, in words.
    dropped: how many files were left out for a benchmark's sake.
  """

  train: tuple[str, ...]
  valid: tuple[str, ...]
  sha256: str
  source: str
  dropped: int

  def describe(self) -> dict[str, object]:
    """Source, hash and sizes of the data, for the record of a run."""
    return {
      "source": self.source,
      "sha256": self.sha256,
      "train_files": len(self.train),
      "train_bytes": sum(len(t.encode()) for t in self.train),
      "valid_files": len(self.valid),
      "valid_bytes": sum(len(t.encode()) for t in self.valid),
      "dropped_files": self.dropped,
    }


def read_corpus(
  root: str = "",
  limit: int | None = None,
  *,
  more: Sequence[str] = (),
  without: str = "",
) -> Corpus:
  """Reads `*.py` under `root`, by default the standard library.

  Args:
    root: a directory; "" means that of the running interpreter's library.
    limit: stop after so many files, for tests.
    more: further directories, such as those of installed packages.
    without: a file of a benchmark's functions (see `functions`); files that
      hold one of them are dropped.

  Returns:
    The texts. Files that are empty or not UTF-8 are left out, as is all
    that lies in a directory named in `EXCLUDED`, or `GENERATED`.

  Raises:
    ByteprobError: there are no files to train or to validate on, or nothing
      in `without` is a function.
    OSError: `without` cannot be read.
  """
  base = pathlib.Path(root or sysconfig.get_path("stdlib"))
  forbidden = functions(without) if without else ()
  digest = hashlib.sha256()
  splits: dict[bool, list[str]] = {False: [], True: []}
  count = dropped = 0
  for name, content in _files(base, more):
    try:
      text = content.decode("utf-8")
    except UnicodeDecodeError:
      continue
    if not text:
      continue
    if limit is not None and count >= limit:
      break
    squeezed = squeeze(text) if forbidden else ""
    if any(function in squeezed for function in forbidden):
      dropped += 1
      continue
    count += 1
    digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    splits[is_held_out(name)].append(text)
  if not splits[False] or not splits[True]:
    raise ByteprobError(
      f"{count} Python sources under {base}: too few to train and validate"
    )
  own = base.name if root else "the Python standard library (PSF-2.0)"
  return Corpus(
    train=tuple(splits[False]),
    valid=tuple(splits[True]),
    sha256=digest.hexdigest(),
    source="sources of " + ", ".join([own, *(_name(one) for one in more)]),
    dropped=dropped,
  )


def _files(
  base: pathlib.Path, more: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
  """Contents by name: a path from its root, which further roots begin."""
  for before, root in (
    ("", base),
    *((f"{_name(one)}/", pathlib.Path(one)) for one in more),
  ):
    if not root.is_dir():
      raise ByteprobError(f"{root} is no directory of Python sources")
    names = {p.relative_to(root).as_posix(): p for p in root.rglob("*.py")}
    for name in sorted(names):
      parts = name.split("/")
      if EXCLUDED & set(parts) or any(p.startswith(GENERATED) for p in parts):
        continue
      yield before + name, names[name].read_bytes()


def _name(directory: str) -> str:
  return pathlib.Path(directory).absolute().name


def squeeze(text: str) -> str:
  """A text without white space: how code is laid out is no difference."""
  return "".join(text.split())


def functions(path: str) -> tuple[str, ...]:
  """Functions of a benchmark, which are kept out of the training texts.

  Args:
    path: in the format of HumanEval: a line has a `prompt` that ends with the
      head and the docstring of the function `entry_point`, and its body, the
      `canonical_solution`.

  Returns:
    Each head with its docstring, and each body, squeezed (see `squeeze`);
    without those that are too short to identify the benchmark (`TELLING`).

  Raises:
    ByteprobError: a line is not of this format; it is named.
    OSError: the file cannot be read.
  """
  keys = "prompt", "entry_point", "canonical_solution"
  found = []
  for where, record in _tasks.records(path, *keys):
    prompt, name, body = (_tasks.text_of(where, record, k) for k in keys)
    at = prompt.rfind(f"def {name}(")
    if at < 0:
      raise ByteprobError(f"{where}: the prompt does not define {name!r}")
    found += [squeeze(prompt[at:]), squeeze(body)]
  if not found:
    raise ByteprobError(f"{path} holds no functions")
  return tuple(text for text in found if len(text) >= TELLING)


def is_held_out(name: str) -> bool:
  """Whether the file of this path (POSIX, from the root) is for validation."""
  head = hashlib.sha256(name.encode()).hexdigest()[:8]
  return int(head, 16) % 1000 < HELD_OUT
