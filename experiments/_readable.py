"""Host: bytes as people can read them, one way everywhere."""

from collections.abc import Iterable

from byteprob.types import EOS

SPACE = "␠"
_NAMED = {0x20: SPACE, 0x0A: r"\n", 0x09: r"\t", 0x0D: r"\r", 0x5C: r"\\"}


def byte(value: int) -> str:
  """A byte, or the end of the text (`<end>`), in printable characters."""
  if value == EOS:
    return "<end>"
  if value in _NAMED:
    return _NAMED[value]
  return chr(value) if 0x21 <= value < 0x7F else f"\\x{value:02X}"


def text(data: bytes) -> str:
  """Bytes in printable characters; whole characters of UTF-8 stay."""
  # What is not UTF-8 comes out of the decoder as U+DC80 to U+DCFF.
  decoded = data.decode("utf-8", "surrogateescape")
  return "".join(map(_character, decoded))


def tokens(spelled: Iterable[bytes]) -> str:
  """Tokens in printable characters, with `|` between them."""
  return "|".join(map(text, spelled))


def _character(character: str) -> str:
  code = ord(character)
  if code < 0x80:
    return byte(code)
  if 0xDC80 <= code <= 0xDCFF:
    return byte(code - 0xDC00)
  if character.isprintable():
    return character
  return "".join(byte(value) for value in character.encode())
