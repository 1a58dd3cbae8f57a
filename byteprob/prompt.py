"""Host: from what users write to the texts that the tokenizer works on."""

import dataclasses
import warnings
from collections.abc import Sequence

import tokenizers

from byteprob.errors import PromptError
from byteprob.tokenization.spec import SPACE
from byteprob.tokenization.tables import Info

Text = bytes | str
Context = Text | Sequence[Text | int]
"""Bytes, a str (taken as UTF-8), or a list that mixes them with token ids."""

Segment = bytes | tuple[int, ...]


class Bare(bytes):
  """Bytes after a token id that the tokenizer puts no space before.

  Some tokenizers put one before every text. In a prompt to fill in, a model
  such as Code Llama has seen none before the suffix.
  """


@dataclasses.dataclass(frozen=True)
class Piece:
  """A run of bytes between token ids.

  Attributes:
    ids: the token ids before it.
    text: the bytes, as given.
    counted: how many of the last bytes are asked about.
    bare: no space is put before it.
  """

  ids: tuple[int, ...]
  text: bytes
  counted: int
  bare: bool = False


def pieces(info: Info, context: Context, text: Context = b"") -> list[Piece]:
  """Cuts a context, and a text that follows it, at the token ids.

  The tokenizer's own start tokens come before a context that does not begin
  with a token id.

  Raises:
    PromptError: there is something that is neither text nor a token id.
  """
  parts: list[tuple[Segment, int]] = []
  for asked, items in ((False, context), (True, text)):
    for item in _items(items):
      data = _item(info, item)
      last = parts[-1][0] if parts else None
      if parts and isinstance(last, tuple) == isinstance(data, tuple):
        counted = parts.pop()[1]
        # What the run began with says whether it is bare.
        parts.append((type(last)(last + data), counted + asked * len(data)))
      else:
        parts.append((data, asked * len(data)))
  found: list[Piece] = []
  ids: tuple[int, ...] = ()
  if not parts or isinstance(parts[0][0], bytes):
    ids = info.start_ids
  for data, counted in parts:
    if isinstance(data, tuple):
      ids += data
    else:
      found.append(Piece(ids, data, counted, isinstance(data, Bare)))
      ids = ()
  if ids or not found:
    found.append(Piece(ids, b"", 0))
  return found


def _items(context: Context) -> list[Text | int]:
  if isinstance(context, bytes | str | bytearray):
    return [context]
  if isinstance(context, int):
    raise PromptError("A context is bytes, a str, or a list of them and ids.")
  return list(context)


def as_bytes(text: Text) -> bytes:
  """A text's bytes.

  Raises:
    PromptError: it is a str that is not Unicode.
  """
  if not isinstance(text, str):
    return text if isinstance(text, Bare) else bytes(text)
  try:
    return text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise PromptError(
      f"The text has a lone surrogate at character {error.start}, which is"
      " not Unicode; pass bytes instead."
    ) from error


def _item(info: Info, item: Text | int) -> Segment:
  if isinstance(item, str | bytes | bytearray):
    return as_bytes(item)
  try:
    id_ = item.__index__()
  except AttributeError:
    raise PromptError(
      f"A context holds bytes, str and token ids, not {type(item).__name__}."
    ) from None
  if not 0 <= id_ < info.size:
    raise PromptError(
      f"There is no token {id_}: ids go from 0 to {info.size - 1}."
    )
  return (id_,)


def working(info: Info, text: bytes, *, partial: bool) -> bytes:
  """The text that the tokenizer works on: checked and normalized.

  The prefix space of `Info.prefix` is not put before it here.

  Args:
    info: of the tokenizer.
    text: the text.
    partial: it may stop inside a character.

  Raises:
    PromptError: the text is not UTF-8, or holds what no token can spell.
  """
  whole = text
  if info.utf8 == "strict":
    whole = text[: len(text) - _unfinished(text)]
    try:
      whole.decode("utf-8")
    except UnicodeDecodeError as error:
      raise PromptError(
        f"The text is not UTF-8 at byte {error.start} ({error.reason}). Load"
        ' the model with utf8="any" to use any bytes.'
      ) from error
    if len(whole) < len(text) and not partial:
      raise PromptError(
        f"The text stops inside a character at byte {len(whole)}, and token"
        " ids follow; complete the character."
      )
  changed = _normalized(info, whole) + text[len(whole) :]
  if changed != text:
    warnings.warn(
      "The text has been put in the form that the model's tokenizer gives it"
      f" ({_forms(info)}); it has {len(changed)} bytes now.",
      stacklevel=3,
    )
  for at, byte in enumerate(changed):
    if byte in info.unspelled:
      raise PromptError(
        f"The byte 0x{byte:02X} at byte {at} of the text cannot be spelled by"
        " any token of this model; leave it out."
      )
  return changed


def spellable(info: Info, text: bytes) -> int:
  """How many bytes of a text the tokenizer spells before it cannot go on."""
  size = len(text)
  if info.utf8 == "strict":
    try:
      text.decode("utf-8")
    except UnicodeDecodeError as error:
      size = error.start
      # What may yet become a character is well-formed so far.
      while size < len(text) and _unfinished(text[: size + 1]) == (
        size + 1 - error.start
      ):
        size += 1
  found = (at for at in range(size) if text[at] in info.unspelled)
  return next(found, size)


def _unfinished(text: bytes) -> int:
  """Bytes of an unfinished character at the end of a text."""
  for back in range(1, min(4, len(text) + 1)):
    byte = text[-back]
    if byte >= 0xC0:
      size = 2 + (byte >= 0xE0) + (byte >= 0xF0)
      return back if back < size and _can_begin(text[-back:]) else 0
    if byte < 0x80:
      return 0
  return 0


def _can_begin(part: bytes) -> bool:
  """Whether bytes begin a character; the second decides."""
  low = {0xE0: 0xA0, 0xF0: 0x90}.get(part[0], 0x80)
  high = {0xED: 0x9F, 0xF4: 0x8F}.get(part[0], 0xBF)
  if not 0xC2 <= part[0] <= 0xF4:
    return False
  return len(part) < 2 or low <= part[1] <= high


def _normalized(info: Info, text: bytes) -> bytes:
  if info.nfc and info.utf8 == "strict":
    text = tokenizers.normalizers.NFC().normalize_str(text.decode()).encode()
  if info.escapes_space:
    text = text.replace(SPACE.encode(), b" ")
  return text


def _forms(info: Info) -> str:
  forms = ["Unicode's NFC"] * info.nfc
  return " and ".join(forms + ["U+2581 as a space"] * info.escapes_space)
