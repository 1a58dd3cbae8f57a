"""Host: the texts to train on: the standard library's own sources."""

import dataclasses
import hashlib
import pathlib
import sysconfig

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """Texts, split by the hash of each file's path.

  Attributes:
    train: texts to train on, in the order of their paths.
    valid: texts held out.
    sha256: hash of all paths and contents, in order.
  """

  train: tuple[str, ...]
  valid: tuple[str, ...]
  sha256: str

  def describe(self) -> dict[str, object]:
    """What identifies the data, for the record of a run."""
    return {
      "sha256": self.sha256,
      "train_files": len(self.train),
      "train_bytes": sum(len(t.encode()) for t in self.train),
      "valid_files": len(self.valid),
      "valid_bytes": sum(len(t.encode()) for t in self.valid),
    }


def read_corpus(root: str = "", limit: int | None = None) -> Corpus:
  """Reads `*.py` under `root`, by default the standard library.

  Args:
    root: a directory; "" means that of the running interpreter's library.
    limit: stop after so many files, for tests.

  Returns:
    The texts. Files that are empty or not UTF-8 are left out, as is all
    that lies in a directory named in `EXCLUDED`, or `GENERATED`.

  Raises:
    FileNotFoundError: there are no files to train or to validate on.
  """
  base = pathlib.Path(root or sysconfig.get_path("stdlib"))
  digest = hashlib.sha256()
  splits: dict[bool, list[str]] = {False: [], True: []}
  names = {p.relative_to(base).as_posix(): p for p in base.rglob("*.py")}
  count = 0
  for name in sorted(names):
    parts = name.split("/")
    if EXCLUDED & set(parts) or any(p.startswith(GENERATED) for p in parts):
      continue
    content = names[name].read_bytes()
    try:
      text = content.decode("utf-8")
    except UnicodeDecodeError:
      continue
    if not text:
      continue
    if limit is not None and count >= limit:
      break
    count += 1
    digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    splits[is_held_out(name)].append(text)
  if not splits[False] or not splits[True]:
    raise FileNotFoundError(
      f"{count} Python sources under {base}: too few to train and validate"
    )
  return Corpus(
    train=tuple(splits[False]),
    valid=tuple(splits[True]),
    sha256=digest.hexdigest(),
  )


def is_held_out(name: str) -> bool:
  """Whether the file of this path (POSIX, from the root) is for validation."""
  head = hashlib.sha256(name.encode()).hexdigest()[:8]
  return int(head, 16) % 1000 < HELD_OUT
