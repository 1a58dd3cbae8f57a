"""Device: which bytes an automaton allows; it is made on the host.

An automaton over bytes multiplies into a byte-level model exactly: what it
forbids gets log-prob -inf, byte by byte, wherever the prompt ends. It reads
the drawn text alone, from state 0.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from byteprob.errors import ConstraintError
from byteprob.types import EOS

DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
"""A day as ISO 8601 writes it; all months have 31."""

JSON_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
"""A number as JSON (RFC 8259) writes it."""

IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
"""An identifier of Python, of ASCII letters; keywords are among them."""

MAX_STATES = 2**15 - 1
"""States of an automaton at most; each takes 1 KB on the device."""

_SIZES = (64, 512, 4096, 2**15)
"""States of automata on the device: what a program is compiled for."""

MAX_SECONDS = 10.0
"""How long the making of an automaton may take."""


class Constraint(NamedTuple):
  """A deterministic automaton over bytes, from state 0.

  Its size is one of a few, 64 or more, so that constraints of like sizes
  share what is compiled. From every state that a text leads to some text
  leads on to an end. The last state is never one of those: it allows
  nothing, and -1 means it.

  Attributes:
    next: `int32[Q, 256]` state after each byte, -1 if it is forbidden.
    final: `bool[Q]` whether the text may end here.
  """

  next: Int[Array, "Q 256"]
  final: Bool[Array, " Q"]

  @classmethod
  def free(cls) -> "Constraint":
    """The constraint that allows everything."""
    return _pad(np.zeros((1, 256), np.int32), np.ones(1, bool))


def allowed(
  constraint: Constraint, state: Int[Array, ""]
) -> Bool[Array, "257"]:
  """Which symbols may come next: bytes, and at 256 the text's end."""
  return jnp.append(constraint.next[state] >= 0, constraint.final[state])


def step(
  constraint: Constraint, state: Int[Array, ""], byte: Int[Array, ""]
) -> Int[Array, ""]:
  """The state after a symbol, -1 if it is forbidden; the end keeps it."""
  after = constraint.next[state, jnp.minimum(byte, EOS - 1)]
  return jnp.where(byte == EOS, state, after)


def complete(constraint: Constraint, state: Int[Array, ""]) -> Bool[Array, ""]:
  """Whether the text may end here and can do nothing else."""
  going = (constraint.next[state] >= 0).any()
  return constraint.final[state] & ~going


def is_complete(constraint: Constraint) -> bool:
  """On the host: whether only the empty text matches."""
  # Not indexed on the device, which compiles a program for each shape.
  if not np.asarray(constraint.final)[0]:
    return False
  return not (np.asarray(constraint.next)[0] >= 0).any()


def compile_regex(pattern: str) -> Constraint:
  r"""The texts that a regular expression matches from beginning to end.

  The syntax is that of Rust's regex crate, which is much like Python's: `\d`
  and `\w` are Unicode's digits and letters, `.` is anything but a newline.
  Texts are UTF-8, and nothing else ever matches. An anchor at the beginning
  or end changes nothing; one elsewhere, and whatever else no automaton can
  follow (look-around, back-references, word boundaries), is refused.

  Args:
    pattern: the regular expression.

  Raises:
    ConstraintError: it cannot be read, uses what is refused, matches nothing,
      or takes more than `MAX_STATES` or `MAX_SECONDS`.
  """
  inner = re.sub(r"\A(\(\?[a-zA-Z]+\))?\^", r"\1", pattern)
  _refuse(pattern, inner)
  table, final = _automaton(pattern, inner)
  alive = _alive(table, final)
  if not alive[:1].any():
    raise ConstraintError(
      f"The pattern {pattern!r} matches no text; a constraint has to allow one."
    )
  name = np.where(alive, np.cumsum(alive) - 1, -1)
  table = np.where(table < 0, -1, name[table])
  return _pad(table[alive], final[alive])


_FOLLOWED = "no automaton can follow that; write out what it allows"
_REFUSED = {
  r"\(\?<?[=!]": ("a look-around", _FOLLOWED),
  r"\\[1-9]|\\k|\(\?P[=>]": ("a back-reference", _FOLLOWED),
  r"\(\?[>(]": ("an atomic or conditional group", _FOLLOWED),
  r"\\[bB<>]": ("a word boundary", _FOLLOWED),
  r"\^|\\A": ("an anchor", "the whole text has to match, so leave it out"),
  r"\(\?[a-zA-Z]*x": ("verbose mode", "write it without spaces and comments"),
}


def _refuse(pattern: str, inner: str) -> None:
  """Names what the library refuses without a reason, or takes otherwise.

  Args:
    pattern: as it was written.
    inner: without the anchor at its beginning.
  """
  at, depth, groups = 0, 0, 0
  while at < len(inner):
    for source, (what, advice) in _REFUSED.items():
      found = None if depth else re.compile(source).match(inner, at)
      if found:
        place = at + len(pattern) - len(inner)
        raise ConstraintError(
          f"The pattern {pattern!r} has {what}, {found[0]!r}, at character"
          f" {place}: {advice}."
        )
    char = inner[at]
    at += 2 if char == "\\" else 1
    if char == "[":  # a class, maybe inside another
      depth += 1
      at = re.compile(r"\^?\]?").match(inner, at).end()
    elif char == "]":
      depth = max(depth - 1, 0)
    elif not depth:
      groups += {"(": 1, ")": -1}.get(char, 0)
      if groups < 0:
        raise ConstraintError(
          f"The pattern {pattern!r} has an unmatched ')'; write a literal one"
          r" as \)."
        )


def _automaton(pattern: str, inner: str):
  """Compiles a pattern with `regexdfa`; returns the automaton as arrays."""
  program = pathlib.Path(__file__).with_name("regexdfa.py")
  # -P: the folder of the program, ours, is no place to import from.
  command = [sys.executable, "-P", str(program), str(MAX_STATES)]
  try:
    given = inner.encode()
  except UnicodeEncodeError:
    raise ConstraintError(
      f"The pattern {pattern!r} has a lone surrogate, which no text has."
    ) from None
  try:
    done = subprocess.run(
      command,
      input=given,
      capture_output=True,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      timeout=MAX_SECONDS,
    )
  except subprocess.TimeoutExpired:
    raise _too_large(
      pattern, f"it is not made within {MAX_SECONDS:g} seconds"
    ) from None
  if done.returncode < 0:
    raise _too_large(pattern, "it takes too much memory")
  if done.returncode:
    raise RuntimeError(done.stderr.decode(errors="replace"))
  head, _, data = done.stdout.partition(b"\n")
  head = json.loads(head)
  if "error" in head:
    raise ConstraintError(_reason(pattern, head["error"]))
  count = head["states"]
  if count > MAX_STATES:
    raise _too_large(
      pattern, f"it has {count} states, {MAX_STATES} are allowed"
    )
  table, final = np.split(np.frombuffer(data, np.uint8), [1024 * count])
  return table.view(np.int32).reshape(count, 256), final.astype(bool)


def _too_large(pattern: str, how: str) -> ConstraintError:
  return ConstraintError(
    f"The automaton of the pattern {pattern!r} is too large: {how}. Counted"
    " repeats, and choices that only later text settles, make it large."
  )


def _reason(pattern: str, words: str) -> str:
  """Error message for a broken pattern; the library's own says little."""
  if "incompatible" in words:
    return (
      f"The pattern {pattern!r} has a part that matches nothing, such as an"
      r" empty class or a '$' before more; take it out."
    )
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      re.compile(pattern)
    says = f"outlines-core says: {words}"
  except (re.error, RecursionError) as error:
    says = f"Python's re says: {error}"
  return (
    f"The pattern {pattern!r} cannot be read; its syntax has to be that of"
    f" Rust's regex crate (https://docs.rs/regex). {says}."
  )


def _alive(table, final):
  """The states from which an end is reached."""
  before, byte = np.nonzero(table >= 0)
  pairs = np.unique(table[before, byte].astype(np.int64) * len(table) + before)
  after, before = np.divmod(pairs, max(len(table), 1))
  first = np.searchsorted(after, np.arange(len(table) + 1))
  alive = final.copy()
  queue = np.flatnonzero(final).tolist()
  while queue:
    state = queue.pop()
    found = before[first[state] : first[state + 1]]
    found = found[~alive[found]]
    alive[found] = True
    queue.extend(found.tolist())
  return alive


def _pad(table, final) -> Constraint:
  """A constraint of a size that others have too; its last state is dead."""
  more = next(size for size in _SIZES if size > len(table)) - len(table)
  return Constraint(
    next=jax.device_put(
      np.pad(table, ((0, more), (0, 0)), constant_values=-1).astype(np.int32)
    ),
    final=jax.device_put(np.pad(final, (0, more))),
  )
