"""Device: where drafts come from, beside the rows that are there.

The rows reach to the next token's end; these go on from there, so that a
model call may bring more than one token. See `state.Source`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from byteprob.sampling import loop, room
from byteprob.sampling.state import FULL, RUNNING, Given, Setup, State

TRIFLE = 1e-3
"""What a smaller model may leave out: its bytes are but proposals."""


@dataclasses.dataclass(frozen=True)
class LookUp:
  """What followed the last bytes when the text had them before.

  Attributes:
    least: bytes that must be the same.
    most: bytes that are compared.
  """

  least: int = 4
  most: int = 16

  def propose(self, given, request, memory, state: State, draft):
    """See `state.Source`."""
    del given, request
    ahead = draft.byte.shape[1]
    text, end = _with_draft(state, draft)
    find = functools.partial(
      look_up, ahead=ahead, least=self.least, most=self.most
    )
    return memory, Given(*jax.vmap(find)(text, end))

  def crowded(self, memory):
    """See `state.Source`."""
    del memory
    return jnp.bool_(False)

  def widened(self, given, memory):
    """See `state.Source`."""
    del given
    return self, memory


def look_up(
  text: UInt8[Array, " M"],
  length: Int[Array, ""],
  *,
  ahead: int,
  least: int,
  most: int,
) -> tuple[Int[Array, " D"], Int[Array, ""]]:
  """The bytes after the last place that looks like the text's end.

  Args:
    text: bytes, padded.
    length: how many there are.
    ahead: how many are wanted.
    least: bytes before the place that must be those at the end.
    most: where more are, the more the better, up to this.

  Returns:
    The bytes and how many they are, `ahead` or 0. They may run into
    themselves: what repeats is taken to go on repeating.
  """
  place = jnp.arange(len(text))
  back = jnp.arange(1, most + 1)
  ends = text[jnp.maximum(length - back, 0)]
  before = place[:, None] - back[None]
  same = text[jnp.maximum(before, 0)] == ends[None]
  same &= (before >= 0) & (place < length)[:, None]
  alike = jnp.cumprod(same, axis=1).sum(1)
  best = len(text) - 1 - alike[::-1].argmax()
  period = jnp.maximum(length - best, 1)
  byte = text[best + jnp.arange(ahead) % period].astype(jnp.int32)
  return byte, jnp.where(alike[best] >= least, ahead, 0)


@dataclasses.dataclass(frozen=True)
class Smaller:
  """What a smaller model draws with the same random numbers.

  It may have any tokenizer: the two meet in bytes.

  Attributes:
    setup: the smaller model, and what its texts were made with.
  """

  setup: Setup

  def propose(self, given, request, memory: State, state: State, draft):
    """See `state.Source`; the memory is the same texts, of this model."""
    tables, params = given
    request = request._replace(eps=jnp.float32(TRIFLE))
    text, end = _with_draft(state, draft)
    outset = state.read - state.length
    ahead = draft.byte.shape[1]

    def go_on(known, limit, mine: State) -> State:
      """Goes on to `limit` bytes, the first `known` of them forced."""
      status = jnp.where(
        (mine.status == FULL) & (mine.length < limit), RUNNING, mine.status
      )

      def body(mine):
        place = outset + mine.length
        place = place[:, None] + jnp.arange(self.setup.ahead + 1)[None]
        byte = jnp.take_along_axis(text, place, axis=1, mode="clip")
        forced = Given(byte.astype(jnp.int32), known - mine.length)
        return loop.go_round(
          self.setup, tables, params, request, mine, forced=forced
        )

      return jax.lax.while_loop(
        lambda mine: (mine.status == RUNNING).any() & ~mine.crowded,
        body,
        mine._replace(limit=limit, status=status),
      )

    memory = go_on(state.length, state.length, memory)
    known = end - outset
    running = state.status == RUNNING
    limit = jnp.where(running, known + ahead - draft.size, memory.length)
    dream = go_on(known, limit, memory)
    place = (dream.read - dream.length + known)[:, None]
    place = place + jnp.arange(ahead)[None]
    byte = jnp.take_along_axis(dream.text, place, axis=1, mode="clip")
    memory = memory._replace(
      crowded=memory.crowded | dream.crowded,
      overflow=memory.overflow | dream.overflow,
    )
    size = jnp.maximum(dream.length - known, 0)
    return memory, Given(byte.astype(jnp.int32), size)

  def crowded(self, memory: State):
    """See `state.Source`."""
    return memory.crowded

  def widened(self, given, memory: State):
    """See `state.Source`."""
    setup, memory = room.widen(given[0], self.setup, memory)
    return dataclasses.replace(self, setup=setup), memory


def _with_draft(state: State, draft) -> tuple[Array, Array]:
  """The texts with their drafts, and how long they are."""
  each = jnp.arange(len(state.read))[:, None]
  at = jnp.arange(draft.byte.shape[1])[None]
  place = jnp.where(
    at < draft.size[:, None], state.read[:, None] + at, state.text.shape[1]
  )
  text = state.text.at[each, place].set(
    draft.byte.astype(jnp.uint8), mode="drop"
  )
  return text, state.read + draft.size
