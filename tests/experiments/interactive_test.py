"""Host: what may follow a text, shown while it is typed."""

import os
import pty
import select
import subprocess
import sys
import termios
import time

import jax
import numpy as np
import pytest

import byteprob
from experiments import _interactive
from experiments._interactive import View

VIEW = View(
  text=b"de", choices=((102, 0.75), (256, 0.25)), continuation=b"f main"
)


@pytest.mark.parametrize(
  ("data", "wanted"),
  [
    (b"ab c", [b"ab c"]),
    (b"\t", ["accept"]),
    (b"a\tb\x7f", [b"a", "accept", b"b", "erase"]),
    (b"a\rb\nc", [b"a\nb\nc"]),
    ("é漢".encode(), ["é漢".encode()]),
    (b"a\x1b[Ab", [b"ab"]),
    (b"a\x1b[1;5Cb", [b"ab"]),
    (b"a\x1bOPb\x1b", [b"ab"]),
    (b"a\x00\x02b", [b"ab"]),
    (b"\x04", ["end"]),
    (b"x\x03", [b"x", "end"]),
    (b"", []),
  ],
)
def test_keys(data, wanted):
  assert list(_interactive.keys(data)) == wanted


def test_what_a_key_does():
  assert _interactive.after(VIEW, b"f") == b"def"
  assert _interactive.after(VIEW, "accept") == b"def main"
  assert _interactive.after(VIEW, "erase") == b"d"
  assert _interactive.after(VIEW, "end") is None
  assert _interactive.after(View(text=b""), "erase") == b""
  assert _interactive.after(View(text="a漢".encode()), "erase") == b"a"


def test_likely_bytes_come_first_and_unlikely_ones_not_at_all():
  shares = np.full(257, 1e-9)
  shares[[97, 98, 256]] = 0.2, 0.7, 0.1
  found = _interactive.likely(np.log(shares), 5)
  assert [value for value, _ in found] == [98, 97, 256]
  assert [share for _, share in found] == pytest.approx([0.7, 0.2, 0.1])
  assert len(_interactive.likely(np.log(shares), 1)) == 1


def test_a_part_of_a_character_is_no_continuation():
  assert _interactive.whole("né".encode()[:-1]) == b"n"
  assert _interactive.whole("né".encode()) == "né".encode()
  assert _interactive.whole(b"n\xff") == b"n\xff"


def test_what_is_printed():
  assert _interactive.lines(VIEW) == (
    "de\n  next: f 75.0%   <end> 25.0%\n  continuation: f␠main"
  )
  assert _interactive.lines(View(text=b"a", note="no")) == "a\n  no"


def test_a_frame_has_the_text_and_what_may_follow():
  shown = _interactive.frame(VIEW, 40, 10)
  at = [shown.index(part) for part in ("de", "f main", "f 75.0%", "Tab")]
  assert at == sorted(at)
  # The cursor is left behind what was typed.
  assert shown.index("\x1b7") == at[0] + 2 and shown.endswith("\x1b8")


def test_a_frame_fits_and_moves_nothing():
  text = b"line\n" * 50 + b"\x1b[2Jlast\tword"
  view = View(text=text, continuation=b"\x07" * 500, note="wide" * 50)
  shown = _interactive.frame(view, 20, 8)
  assert shown.count("\n") < 8
  assert "last" in shown and "\t" not in shown and "\x07" not in shown
  assert "\x1b[2J" not in shown.removeprefix("\x1b[H\x1b[2J")


def test_a_text_is_followed_wherever_it_goes():
  lm = byteprob.load()
  typing = _interactive.Typing(lm, jax.random.key(0), {"greedy": True}, 3, 8)
  for text in (b"import nu", b"import num", b"import", "# é".encode()):
    view = typing.look(text)
    logprobs = lm.next_byte_logprobs(text)
    assert view.text == text
    assert view.choices[0] == (
      logprobs.argmax(),
      pytest.approx(np.exp(logprobs.max()), abs=1e-5),
    )
    (sample,) = lm.sample([text], jax.random.key(0), 8, greedy=True)
    assert view.continuation == sample.text
  with pytest.raises(byteprob.PromptError, match="UTF-8"):
    typing.look(b"# \xff")
  assert typing.look(b"# a").text == b"# a"


WORDS = [sys.executable, "-m", "experiments.generate", "--interactive"]


def test_lines_are_read_where_there_is_no_terminal():
  done = subprocess.run(
    [*WORDS, "--prompt=import "],
    input=b"nump\n\xff\n",
    capture_output=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  first, choices, continuation, bad, why = done.stdout.decode().splitlines()
  assert first == "import␠nump"
  assert choices.startswith("  next: ") and "%" in choices
  assert continuation.startswith("  continuation: ")
  assert bad == r"import␠\xFF" and "UTF-8" in why


@pytest.mark.skipif(
  not hasattr(os, "login_tty"), reason="the system has no such call"
)
@pytest.mark.parametrize(
  "end", [b"\x04", pytest.param(b"\x03", marks=pytest.mark.slow)]
)
def test_a_terminal_is_driven_and_left_as_it_was(end):
  main, other = pty.openpty()
  before = termios.tcgetattr(other)
  shown = b""

  def until(part: bytes):
    nonlocal shown
    limit = time.monotonic() + 300
    while part not in shown:
      assert time.monotonic() < limit, shown
      if select.select([main], [], [], 1)[0]:
        shown += os.read(main, 65536)
    _, _, shown = shown.partition(part)

  with subprocess.Popen(
    [*WORDS, "--prompt=def main(ar"],
    # Control-C is for those whose terminal it is.
    preexec_fn=lambda: os.login_tty(other),
  ) as process:
    until(b"Tab accepts")
    os.write(main, b"\t")
    until(b"def main(args")
    until(b"Tab accepts")
    os.write(main, end)
    # The screen is left, and the text stays.
    until(b"\x1b[?1049l")
    until(b"def main(args")
    assert process.wait(timeout=60) == 0
  assert termios.tcgetattr(other) == before
  os.close(main)
  os.close(other)
