"""Host: what users write, checked and put in the tokenizer's form."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteprob import prompt
from byteprob.errors import PromptError
from byteprob.prompt import Piece
from byteprob.tokenization.tables import Info

PLAIN = Info(
  key="",
  utf8="strict",
  nfc=False,
  escapes_space=False,
  prefix="",
  prefix_once=False,
  start_ids=(7,),
  special=(("<s>", 7), ("</s>", 8)),
  unspelled=(),
  size=10,
)


def info(**changes) -> Info:
  return dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize(
  ("context", "text", "expected"),
  [
    (b"", b"", [Piece((7,), b"", 0)]),
    ([], [], [Piece((7,), b"", 0)]),
    ("é", b"", [Piece((7,), b"\xc3\xa9", 0)]),
    (b"ab", b"c", [Piece((7,), b"abc", 1)]),
    (bytearray(b"ab"), "", [Piece((7,), b"ab", 0)]),
    (["a", b"b", "", "c"], "d", [Piece((7,), b"abcd", 1)]),
    ([3], b"", [Piece((3,), b"", 0)]),
    ([3, 4], b"a", [Piece((3, 4), b"a", 1)]),
    ([b"", 3], b"a", [Piece((7,), b"", 0), Piece((3,), b"a", 1)]),
    (
      ["a", 3, 4, "b"],
      b"c",
      [Piece((7,), b"a", 0), Piece((3, 4), b"bc", 1)],
    ),
    (
      ["a"],
      [b"b", 3, b"c", 4],
      [Piece((7,), b"ab", 1), Piece((3,), b"c", 1), Piece((4,), b"", 0)],
    ),
    ([np.int32(3), "a"], b"", [Piece((3,), b"a", 0)]),
    # A special token's own text is bytes like any other.
    ("<s>", b"", [Piece((7,), b"<s>", 0)]),
  ],
)
def test_contexts_are_cut_at_their_ids(context, text, expected):
  assert prompt.pieces(PLAIN, context, text) == expected


_ITEMS = st.lists(st.one_of(st.binary(max_size=4), st.integers(0, 9)))


@given(_ITEMS, _ITEMS)
def test_nothing_is_lost_between_pieces(context, text):
  found = prompt.pieces(PLAIN, context, text)
  flat = [part for piece in found for part in (*piece.ids, *piece.text)]
  given_ = [
    part
    for item in (*context, *text)
    for part in (item if isinstance(item, bytes) else [item])
  ]
  starts = not (context + text) or isinstance((context + text)[0], bytes)
  assert flat == [7] * starts + given_
  asked = sum(len(item) for item in text if isinstance(item, bytes))
  assert sum(piece.counted for piece in found) == asked
  assert all(0 <= piece.counted <= len(piece.text) for piece in found)


@pytest.mark.parametrize(
  ("context", "message"),
  [
    (5, "A context is bytes, a str, or a list of them and ids"),
    ([1.5], "holds bytes, str and token ids, not float"),
    ([None], "holds bytes, str and token ids, not NoneType"),
    ([["a"]], "holds bytes, str and token ids, not list"),
    ([-1], "no token -1: ids go from 0 to 9"),
    ([10], "no token 10: ids go from 0 to 9"),
    ("ab\ud800c", "lone surrogate at character 2.*pass bytes"),
  ],
)
def test_what_is_no_context_is_refused(context, message):
  with pytest.raises(PromptError, match=message):
    prompt.pieces(PLAIN, context)


@pytest.mark.parametrize(
  ("text", "at"),
  [
    (b"\x80", 0),
    (b"ab\xff", 2),
    (b"ab\xffcd", 2),
    (b"a\xc3b", 1),
    (b"\xc0\x80", 0),
    (b"\xe0\x80\x80", 0),
    (b"\xed\xa0\x80", 0),
    (b"abc\xed\xa0", 3),
    (b"\xf4\x90\x80\x80", 0),
    (b"\xf4\x90", 0),
    (b"\xf8\x88\x80\x80\x80", 0),
    (b"\xc3\xa9\xa9", 2),
    (b"a\xe4\xb8\xe4\xb8\xad", 1),
  ],
)
@pytest.mark.parametrize("partial", [True, False])
def test_broken_utf8_is_refused_where_it_breaks(text, at, partial):
  message = rf'not UTF-8 at byte {at} .*utf8="any"'
  with pytest.raises(PromptError, match=message):
    prompt.working(PLAIN, text, partial=partial)
  anything = info(utf8="any")
  assert prompt.working(anything, text, partial=partial) == text


_CHARS = st.sampled_from(
  "aé\u07ff\u0800\ud7ff\ue000中\uffff\U00010000\U0010ffff"
)


@given(st.text(_CHARS, max_size=3), _CHARS)
def test_a_text_may_stop_inside_its_last_character_only(before, last):
  data, char = before.encode(), last.encode()
  for size in range(1, len(char)):
    part = data + char[:size]
    assert prompt.working(PLAIN, part, partial=True) == part
    with pytest.raises(PromptError, match=f"inside.*byte {len(data)}, and"):
      prompt.working(PLAIN, part, partial=False)
  assert prompt.working(PLAIN, data + char, partial=False) == data + char


_BYTES = bytes.fromhex("61c0c2c3dfe0e1edeff0f4f5ff808f909fa0bf")
_EDGES = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
_TAILS = [
  bytes(tail)
  for tail in (
    (),
    *((a,) for a in _EDGES),
    *((a, b) for a in _EDGES for b in _EDGES),
    *((a, b, c) for a in _EDGES for b in _EDGES for c in _EDGES),
  )
]


@given(st.lists(st.sampled_from(_BYTES), max_size=6).map(bytes))
def test_what_is_taken_can_be_completed(data):
  """By brute force: a text is taken if it is the start of some UTF-8."""
  completed = False
  for tail in _TAILS:
    try:
      (data + tail).decode()
    except UnicodeDecodeError:
      continue
    completed = True
  try:
    prompt.working(PLAIN, data, partial=True)
    taken = True
  except PromptError:
    taken = False
  assert taken == completed


def test_a_byte_that_no_token_spells():
  lacks = info(unspelled=(0x04, 0xC3))
  with pytest.raises(PromptError, match=r"0x04 at byte 2 .*leave it out"):
    prompt.working(lacks, b"ab\x04", partial=True)
  # Half a character is looked at too.
  with pytest.raises(PromptError, match="0xC3 at byte 1 "):
    prompt.working(lacks, b"a\xc3", partial=True)


def test_nfc_is_applied_and_said():
  nfc = info(nfc=True)
  with pytest.warns(UserWarning, match=r"Unicode's NFC\); it has 5 bytes now"):
    found = prompt.working(nfc, b"cafe\xcc\x81", partial=True)
  assert found == b"caf\xc3\xa9"
  with pytest.warns(UserWarning, match="NFC"):
    found = prompt.working(nfc, b"e\xcc\x81\xe4", partial=True)
  assert found == b"\xc3\xa9\xe4"


def test_a_literal_space_mark_is_a_space():
  escapes = info(escapes_space=True)
  with pytest.warns(UserWarning, match=r"U\+2581 as a space"):
    found = prompt.working(escapes, "a▁b c".encode(), partial=False)
  assert found == b"a b c"


def test_both_forms_are_named():
  both = info(escapes_space=True, nfc=True)
  with pytest.warns(UserWarning, match=r"NFC and U\+2581 as a space"):
    prompt.working(both, "▁e\u0301".encode(), partial=False)


def test_nothing_is_said_of_what_stays_as_it_is():
  both = info(escapes_space=True, nfc=True)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert prompt.working(both, b"caf\xc3\xa9 \xe2\x96", partial=True) == (
      b"caf\xc3\xa9 \xe2\x96"
    )
