"""Host: what may follow a text, shown while it is typed.

What is shown and what a key does are plain functions. `run` puts them on a
terminal, or prints what follows each line of the input.
"""

import codecs
import contextlib
import dataclasses
import os
import select
import shutil
import signal
import sys
import termios
import tty
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

import byteprob
from byteprob.bytemodel import ByteModel
from experiments import _readable

Key = bytes | Literal["accept", "erase", "end"]
"""Typed bytes, or the action of a key."""

_KEYS: dict[bytes, Key] = {
  b"\t": "accept",
  b"\x7f": "erase",
  b"\x08": "erase",
  b"\x03": "end",
  b"\x04": "end",
  b"\r": b"\n",
  b"\n": b"\n",
}

_LEAST = 5e-4
"""Probability of a byte that is shown."""

_HELP = "Tab accepts, Control-D ends"
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_CLEAR = "\x1b[H\x1b[2J"
_KEEP, _BACK = "\x1b7", "\x1b8"
_SCREEN, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """A typed text and its likely continuations, to be shown.

  Attributes:
    text: the bytes typed so far.
    choices: likely next bytes (256: the end) and their probabilities.
    continuation: the bytes that Tab accepts.
    note: a message to the user; empty for none.
  """

  text: bytes
  choices: Sequence[tuple[int, float]] = ()
  continuation: bytes = b""
  note: str = ""


def keys(data: bytes) -> Iterator[Key]:
  """Splits a terminal's bytes into keys; text typed at once is one key."""
  typed, rest = b"", data
  while rest:
    one, rest = rest[:1], rest[1:]
    if one == b"\x1b":
      # An arrow or the like: nothing is known of it.
      rest = rest.lstrip(b"[O0123456789;")[1:] if rest[:1] in b"[O" else rest
      continue
    found = _KEYS.get(one, one if one >= b" " else b"")
    if isinstance(found, bytes):
      typed += found
      continue
    if typed:
      yield typed
    typed = b""
    yield found
  if typed:
    yield typed


def after(view: View, key: Key) -> bytes | None:
  """The text when a key has been pressed; None if that ends it."""
  if isinstance(key, bytes):
    return view.text + key
  if key == "accept":
    return view.text + view.continuation
  if key == "erase":
    kept = len(view.text) - 1
    # A whole character.
    while kept > 0 and view.text[kept] & 0xC0 == 0x80:
      kept -= 1
    return view.text[: max(kept, 0)]
  return None


def likely(logprobs: np.ndarray, count: int) -> list[tuple[int, float]]:
  """The likeliest bytes and their probabilities, of those worth a look."""
  order = np.argsort(-logprobs, kind="stable")[:count]
  shares = [(int(k), float(np.exp(logprobs[k]))) for k in order]
  return [one for one in shares if one[1] >= _LEAST or one == shares[0]]


def whole(text: bytes) -> bytes:
  """A text without the part of a character at its end."""
  decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
  decoder.decode(text)
  part, _ = decoder.getstate()
  return text[: len(text) - len(part)]


def choices_line(view: View) -> str:
  """Likely next bytes in a line."""
  return "   ".join(
    f"{_readable.byte(value)} {share:.1%}" for value, share in view.choices
  )


def lines(view: View) -> str:
  """Lines that show a view where there is no terminal."""
  shown = [
    _readable.text(view.text),
    f"  next: {choices_line(view)}",
    f"  continuation: {_readable.text(view.continuation)}",
  ]
  if view.note:
    shown = [shown[0], f"  {view.note}"]
  return "\n".join(shown)


def frame(view: View, width: int, height: int) -> str:
  """Output for a terminal: the whole screen, the cursor after the text."""
  below = [_cut(choices_line(view), width), _cut(view.note or _HELP, width)]
  room = max(height - len(below) - 2, 1)
  typed, rest = _printable(view.text), _printable(view.continuation)
  while len(rest) > 1 and _rows(typed[-width:] + rest, width) > room:
    rest = rest[:-1]
  while typed and _rows(typed + rest, width) > room:
    typed = typed[1:]
  body = f"{typed}{_KEEP}{_DIM}{rest}{_PLAIN}".replace("\n", "\r\n")
  end = f"\r\n\r\n{_BOLD}{below[0]}{_PLAIN}\r\n{_DIM}{below[1]}{_PLAIN}"
  return _CLEAR + body + end + _BACK


def _printable(text: bytes) -> str:
  """Text that moves no cursor but by its lines."""
  found = text.decode("utf-8", "replace").expandtabs(4)
  return "".join(
    one if one == "\n" or one.isprintable() else _readable.text(one.encode())
    for one in found
  )


def _cells(text: str) -> int:
  """Columns that a text takes."""
  wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
  return len(text) + wide


def _rows(text: str, width: int) -> int:
  """Lines of the screen that a text takes."""
  return sum(_cells(line) // width + 1 for line in text.split("\n"))


def _cut(line: str, width: int) -> str:
  while _cells(line) >= width:
    line = line[:-1]
  return line


class Typing:
  """A text that is typed, and the session that reads it."""

  def __init__(
    self,
    lm: ByteModel,
    key: jax.Array,
    settings: dict[str, Any],
    choices: int,
    ahead: int,
  ):
    self._lm, self._key, self._settings = lm, key, settings
    self._choices, self._ahead = choices, ahead
    self._session = None
    self.text = b""

  def look(self, text: bytes) -> View:
    """Predicts what follows a text; fast if it extends the one before.

    Raises:
      PromptError: the model cannot read it.
    """
    self._go_to(text)
    found = self._session.sample(self._key, self._ahead, **self._settings)
    return View(
      text=text,
      choices=likely(self._session.logprobs, self._choices),
      continuation=whole(found.text),
    )

  def _go_to(self, text: bytes) -> None:
    before, self._session = self._session, None
    if before is not None and text.startswith(self.text):
      self._session = before.push(text[len(self.text) :])
    else:
      self._session = self._lm.session(text)
    self.text = text


def run(
  lm: ByteModel,
  prompt: bytes,
  key: jax.Array,
  settings: dict[str, Any],
  check: Callable[[], None],
  *,
  choices: int,
  ahead: int,
) -> None:
  """Shows what may follow what is typed, until Control-D or Control-C.

  Args:
    lm: the model.
    prompt: how the text begins.
    key, settings: of the continuations; see `ByteModel.sample`.
    check: raises KeyboardInterrupt if Control-C was pressed.
    choices: how many next bytes are shown.
    ahead: bytes of a continuation at most.
  """
  typing = Typing(lm, key, settings, choices, ahead)
  if not (sys.stdin.isatty() and sys.stdout.isatty()):
    for line in sys.stdin.buffer:
      text = prompt + line.rstrip(b"\r\n")
      try:
        view = typing.look(text)
      except byteprob.PromptError as error:
        view = View(text=text, note=str(error))
      print(lines(view), flush=True)
      check()
    return
  text = prompt
  try:
    with _terminal() as (read, write):
      for shown in _typed(typing, prompt, read, write):
        text = shown
        check()
  except KeyboardInterrupt:
    pass
  print(text.decode("utf-8", "replace"), flush=True)


def _typed(typing, prompt, read, write) -> Iterator[bytes]:
  """Follows the keys; yields the text after each look at it."""

  def show(view):
    size = shutil.get_terminal_size()
    write(frame(view, size.columns, size.lines))

  def look(text, before):
    show(View(text=text, note="..."))
    try:
      view = typing.look(text)
    except byteprob.PromptError as error:
      view = dataclasses.replace(before, note=str(error))
    show(view)
    return view

  view = look(prompt, View(text=b""))
  yield view.text
  while data := read():
    text = view.text
    for key in keys(data):
      if key == "accept" and text != view.text:
        view = look(text, view)
        text = view.text
      text = after(dataclasses.replace(view, text=text), key)
      if text is None:
        return
    if text != view.text:
      view = look(text, view)
      yield view.text


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[Callable[[], bytes], Callable[[str], None]]]:
  """Takes each key as it comes, on a screen apart; yields `read`, `write`.

  Whatever happens, the terminal is as before in the end.
  """
  source = sys.stdin.fileno()
  before = termios.tcgetattr(source)

  def read() -> bytes:
    data = os.read(source, 4096)
    # What was typed meanwhile, and the rest of what was pasted.
    while data and select.select([source], [], [], 0)[0]:
      more = os.read(source, 4096)
      if not more:
        break
      data += more
    return data

  def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

  def ended(number, _):
    sys.exit(128 + number)

  handlers = {
    number: signal.signal(number, ended)
    for number in (signal.SIGTERM, signal.SIGHUP)
  }
  try:
    tty.setcbreak(source)
    changed = termios.tcgetattr(source)
    # Control-Z would leave the screen as it is.
    changed[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(source, termios.TCSANOW, changed)
    write(_SCREEN)
    yield read, write
  finally:
    termios.tcsetattr(source, termios.TCSAFLUSH, before)
    write(_LEAVE)
    for number, handler in handlers.items():
      signal.signal(number, handler)
