"""Host: long texts as parts that a model's context has room for."""

from collections.abc import Iterator
from typing import NamedTuple


class Part(NamedTuple):
  """A part: `text[first:stop]` is scored after `text[start:first]`."""

  start: int
  first: int
  stop: int


def parts(
  text: bytes, window: int, stride: int | None = None
) -> Iterator[Part]:
  """Cuts a text so that every byte is scored once.

  The first `window` bytes are one part. Each later one is the next `stride`
  bytes, after the `window - stride` before them: the shorter the stride, the
  more context a byte has, and the more is read twice. Parts begin and end with
  whole characters, and so may be up to three bytes shorter.

  Args:
    text: the text.
    window: bytes that are read together; at least 8.
    stride: bytes that are scored of each, 4 to `window`; half of it by default.

  Raises:
    ValueError: one of these makes no sense.
  """
  for name, value in (("window", window), ("stride", stride)):
    if name == "stride" and value is None:
      continue
    if isinstance(value, bool) or not isinstance(value, int):
      raise ValueError(f"{name} must be a number of bytes, not {value!r}")
  if window < 8:
    raise ValueError(f"window must be at least 8 bytes, not {window}")
  stride = window // 2 if stride is None else stride
  if not 4 <= stride <= window:
    raise ValueError(f"stride must be 4 to {window} (window), not {stride}")
  at, stop = 0, _cut(text, window)
  while at < len(text):
    yield Part(_cut(text, max(0, stop - window)), at, stop)
    at, stop = stop, _cut(text, stop + stride)


def _cut(text: bytes, at: int) -> int:
  """The last place up to one where a character begins; or the text's end."""
  if at >= len(text):
    return len(text)
  back = at
  while back > max(at - 3, 0) and text[back] & 0xC0 == 0x80:
    back -= 1
  # What is not UTF-8 has no characters.
  return at if text[back] & 0xC0 == 0x80 else back
