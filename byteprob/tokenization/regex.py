r"""Host: the regular expressions of pre-tokenizers, as prioritized programs.

A pre-tokenizer's regex is matched by backtracking: alternatives in order,
greedy repeats, the first success wins. Here it becomes a program for a machine
that follows all the ways of backtracking at once, in the order in which
backtracking would try them (Pike's machine). The program reads character
*classes*; which characters an atom such as `\p{L}` or `[^\s\d]` holds is the
tokenizer library's business (see `charclass`), so atoms keep their source.

Understood: literals, escapes, classes, `.`, groups, `(?i:...)`, alternatives,
greedy and lazy repeats, possessive repeats of one character, and look-ahead at
one character. Anything else is an error that names it.
"""

import dataclasses
from collections.abc import Callable

from byteprob.errors import UnsupportedTokenizerError

MAX_REPEAT = 256
"""Largest count in `{m,n}` that is compiled."""


@dataclasses.dataclass(frozen=True)
class Atom:
  """One character, described by the source that the library understands."""

  source: str


@dataclasses.dataclass(frozen=True)
class End:
  """The end of the text; inside a look-ahead only."""


@dataclasses.dataclass(frozen=True)
class Sequence:
  """One after the other."""

  parts: tuple


@dataclasses.dataclass(frozen=True)
class Choice:
  """The first that leads to a match."""

  parts: tuple


@dataclasses.dataclass(frozen=True)
class Repeat:
  """`least` to `most` times (None: no limit); `kind`: greedy, lazy,
  possessive.
  """

  part: object
  least: int
  most: int | None
  kind: str


@dataclasses.dataclass(frozen=True)
class Ahead:
  """The next character is (or is not) among these; `parts`: atoms, `End`."""

  parts: tuple
  negative: bool


def parse(source: str):
  """The syntax tree of a regular expression.

  Raises:
    UnsupportedTokenizerError: it uses something that is not understood.
  """
  parser = _Parser(source)
  tree = parser.choice(fold=False)
  if parser.at < len(source):
    raise parser.error("an unmatched ')'")
  return tree


def literal(text: str):
  """The syntax tree that matches `text` itself."""
  return Sequence(tuple(Atom(_escape(c)) for c in text))


def atoms(tree) -> set[str]:
  """The sources of all atoms in a syntax tree."""
  if isinstance(tree, Atom):
    return {tree.source}
  if isinstance(tree, Repeat):
    return atoms(tree.part)
  if isinstance(tree, End):
    return set()
  return set().union(*(atoms(part) for part in tree.parts))


class _Parser:
  """Recursive descent over one source string."""

  def __init__(self, source: str):
    self.source = source
    self.at = 0

  def error(self, what: str) -> UnsupportedTokenizerError:
    return UnsupportedTokenizerError(
      f"The pre-tokenizer's regular expression {self.source!r} has {what} at"
      f" character {self.at}; it cannot be compiled exactly."
    )

  def peek(self, text: str) -> bool:
    return self.source.startswith(text, self.at)

  def take(self, text: str) -> bool:
    if found := self.peek(text):
      self.at += len(text)
    return found

  def choice(self, fold: bool):
    parts = [self.sequence(fold)]
    while self.take("|"):
      parts.append(self.sequence(fold))
    return parts[0] if len(parts) == 1 else Choice(tuple(parts))

  def sequence(self, fold: bool):
    parts = []
    while self.at < len(self.source) and not (self.peek("|") or self.peek(")")):
      if self.take("(?i)"):
        # It holds to the end of the group, further alternatives included.
        parts.append(self.choice(True))
        break
      parts.append(self.repeat(self.item(fold)))
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

  def item(self, fold: bool):
    if self.take("(?:"):
      return self.group(fold)
    if self.take("(?i:"):
      return self.group(True)
    for opening, negative in (("(?=", False), ("(?!", True)):
      if self.take(opening):
        return self.ahead(fold, negative)
    if self.peek("(?"):
      raise self.error(f"the group {self.source[self.at : self.at + 4]!r}")
    if self.take("("):
      return self.group(fold)
    return self.atom(fold)

  def group(self, fold: bool):
    tree = self.choice(fold)
    if not self.take(")"):
      raise self.error("an unclosed '('")
    return tree

  def ahead(self, fold: bool, negative: bool):
    tree = self.group(fold)
    parts = []
    for part in tree.parts if isinstance(tree, Choice) else (tree,):
      if isinstance(part, Atom):
        parts.append(part)
      elif isinstance(part, Ahead) and not part.negative:
        parts.extend(part.parts)
      else:
        raise self.error("a look-ahead at more than one character before")
    return Ahead(tuple(parts), negative)

  def atom(self, fold: bool):
    start = self.at
    char = self.source[start]
    if char == "[":
      self.bracket()
    elif char == "\\":
      if self.escape():
        return Ahead((End(),), negative=False)
    elif char in "^*+?{":
      raise self.error(f"{char!r}")
    elif char == "$":
      self.at += 1  # the end of a line, in Ruby's syntax
      return Ahead((Atom("\\n"), End()), negative=False)
    else:
      self.at += 1
      return Atom(_fold(_escape(char) if char != "." else char, fold))
    return Atom(_fold(self.source[start : self.at], fold))

  def escape(self) -> bool:
    """Passes over one escape; True if it is the end of the text."""
    self.at += 1
    if self.at >= len(self.source):
      raise self.error("a lone backslash")
    char = self.source[self.at]
    self.at += 1
    if char in "pPxu" and (self.peek("{") or char in "pP"):
      stop = self.source.find("}", self.at)
      if not self.peek("{") or stop < 0:
        raise self.error(f"a broken \\{char}")
      self.at = stop + 1
    elif char == "x":
      self.at += 2
    elif char == "u":
      self.at += 4
    elif char == "z":
      return True
    elif char.isalnum() and char not in "sSdDwWhHrntfvae0":
      raise self.error(f"\\{char}")
    return False

  def bracket(self) -> None:
    """Passes over `[...]`, nested ones and their escapes included."""
    depth = 0
    while self.at < len(self.source):
      if self.take("[:"):  # a POSIX class such as [:alpha:]
        stop = self.source.find(":]", self.at)
        if stop < 0:
          raise self.error("a broken '[:'")
        self.at = stop + 2
        continue
      char = self.source[self.at]
      if char == "\\":
        self.at += 2
        continue
      self.at += 1
      if char == "[":
        depth += 1
        self.take("^")
        # A bracket that opens with "]" holds it.
        if self.peek("]"):
          self.at += 1
      elif char == "]":
        depth -= 1
        if not depth:
          return
    raise self.error("an unclosed '['")

  def repeat(self, item):
    while True:
      bounds = self.bounds()
      if bounds is None:
        return item
      if isinstance(item, Ahead):
        raise self.error("a repeated look-ahead before")
      (least, most), braces = bounds
      kind = "greedy"
      if self.take("?"):
        kind = "lazy"
      elif not braces and self.take("+"):
        # After braces, Ruby's syntax reads "+" as one more repeat.
        kind = "possessive"
        if not isinstance(item, Atom):
          raise self.error("a possessive repeat of more than a character")
      item = Repeat(item, least, most, kind)

  def bounds(self):
    """`((least, most), braces)` if a repeat stands here, else None."""
    for char, bound in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
      if self.take(char):
        return bound, False
    if not self.take("{"):
      return None
    stop = self.source.find("}", self.at)
    least, comma, most = self.source[self.at : max(stop, self.at)].partition(
      ","
    )
    if not (least or most) or not (least + most).isdigit():
      raise self.error("a broken '{'")
    self.at = stop + 1
    low = int(least or 0)
    high = (int(most) if most else None) if comma else low
    if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
      raise self.error("an impossible or enormous repeat before")
    return (low, high), True


def _escape(char: str) -> str:
  return char if char.isalnum() or ord(char) > 127 else f"\\x{ord(char):02X}"


def _fold(source: str, fold: bool) -> str:
  return f"(?i:{source})" if fold else source


@dataclasses.dataclass(frozen=True)
class Char:
  """Reads one character of these classes; goes on at the next instruction."""

  classes: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Split:
  """Goes on at all of these, in this order."""

  targets: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Look:
  """Goes on if the next character is of these classes (`end`: or none)."""

  classes: frozenset[int]
  end: bool


@dataclasses.dataclass(frozen=True)
class Match:
  """The whole expression has matched."""


def assemble(
  tree, members: Callable[[str], frozenset[int]], everything: frozenset[int]
) -> tuple:
  """The program of a syntax tree.

  Args:
    tree: from `parse` or `literal`.
    members: the classes of an atom's characters.
    everything: all classes.

  Returns:
    Instructions; the first is where a match starts.

  Raises:
    UnsupportedTokenizerError: the expression matches the empty text.
  """
  program: list = []

  def emit(tree) -> None:
    if isinstance(tree, Atom):
      program.append(Char(members(tree.source)))
    elif isinstance(tree, Ahead):
      inside = frozenset().union(
        *(members(p.source) for p in tree.parts if isinstance(p, Atom))
      )
      end = any(isinstance(p, End) for p in tree.parts)
      program.append(
        Look(everything - inside, not end)
        if tree.negative
        else Look(inside, end)
      )
    elif isinstance(tree, Sequence):
      for part in tree.parts:
        emit(part)
    elif isinstance(tree, Choice):
      emit_choice(tree)
    else:
      emit_repeat(tree)

  def emit_choice(tree) -> None:
    fork = len(program)
    program.append(None)
    starts, leaps = [], []
    for part in tree.parts:
      starts.append(len(program))
      emit(part)
      leaps.append(len(program))
      program.append(None)
    program[fork] = Split(tuple(starts))
    for leap in leaps:
      program[leap] = Split((len(program),))

  def emit_repeat(tree) -> None:
    def fork(inside, outside):
      return Split(
        (outside, inside) if tree.kind == "lazy" else (inside, outside)
      )

    for _ in range(tree.least):
      emit(tree.part)
    if tree.most is None:
      top = len(program)
      program.append(None)
      emit(tree.part)
      program.append(Split((top,)))
      program[top] = fork(top + 1, len(program))
    else:
      forks = []
      for _ in range(tree.most - tree.least):
        forks.append(len(program))
        program.append(None)
        emit(tree.part)
      # All ways out lead to the same place.
      for at in forks:
        program[at] = fork(at + 1, len(program))
    if tree.kind == "possessive":
      # Having taken all it can, it never gives back: what follows an exit
      # that could have gone on is no match, unless the count is full.
      if tree.most not in (None, 1) or tree.least > 1:
        raise UnsupportedTokenizerError(
          "A pre-tokenizer's regular expression has a possessive repeat with"
          " bounds; it cannot be compiled exactly."
        )
      emit_possessive_exit(tree)

  def emit_possessive_exit(tree) -> None:
    members_ = members(tree.part.source)
    if tree.most is None:
      program.append(Look(everything - members_, True))
      return
    # `a?+`: taken, whatever follows; or not there at all.
    del program[-2:]
    fork = len(program)
    program.append(Split((fork + 1, fork + 3)))
    program.append(Char(members_))
    program.append(Split((fork + 4,)))
    program.append(Look(everything - members_, True))

  emit(tree)
  program.append(Match())
  if any(
    isinstance(program[pc], Match)
    for symbol in (None, *everything)
    for pc in closure(tuple(program), (0,), symbol)
  ):
    raise UnsupportedTokenizerError(
      "A pre-tokenizer's regular expression matches the empty text; it cannot"
      " be compiled exactly."
    )
  return tuple(program)


def closure(
  program: tuple, threads: tuple[int, ...], symbol: int | None
) -> tuple[int, ...]:
  """The `Char` and `Match` instructions that threads reach, in order.

  Args:
    program: from `assemble`.
    threads: instructions, best first.
    symbol: class of the next character, None at the end of the text.
  """
  seen: set[int] = set()
  found: list[int] = []
  stack = list(reversed(threads))
  while stack:
    pc = stack.pop()
    if pc in seen:
      continue
    seen.add(pc)
    match program[pc]:
      case Split(targets):
        stack.extend(reversed(targets))
      case Look(classes, end):
        if end if symbol is None else symbol in classes:
          stack.append(pc + 1)
      case _:
        found.append(pc)
  return tuple(found)
