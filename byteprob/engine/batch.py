"""Host: texts under way, read and drawn by the engine's programs.

Their shapes depend on the models, the number of texts (a power of two) and
the cache's capacity (a power of four); all else is data.
"""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from byteprob.compilation import Program
from byteprob.constraints import Constraint
from byteprob.engine import combine, reading
from byteprob.engine import grow as growth
from byteprob.engine.config import EngineConfig
from byteprob.engine.evaluate import known_logprobs
from byteprob.engine.generate import (
  CONTEXT,
  ENDED,
  FULL,
  RUNNING,
  Given,
  LoopConfig,
  State,
  generate,
)
from byteprob.engine.needs import Needs
from byteprob.engine.prefill import prefill
from byteprob.engine.request import DecodeRequest, LogitWarpers
from byteprob.engine.state import MemberState, init
from byteprob.errors import PromptError
from byteprob.mesh import shard_batch
from byteprob.plan import ScoringQuery, distinct
from byteprob.pooling import Pool
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import Model

OUTPUT = 512
"""Bytes of a text between two looks of the host."""

GIVEN = 32
"""Bytes that the loop reads itself; more are read many at a model call."""

STOPS = (16, 32)
"""Stop strings, and bytes of each, that the programs are compiled for."""

_FOREVER = np.int32(2**30)

_CHUNKS = {
  256: {"chunk_bytes": 64, "chunk_nodes": 96, "chunk_rows": 32},
  1024: {"chunk_bytes": 256, "chunk_nodes": 384, "chunk_rows": 128},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
  """A model, and the texts as its tokenizer works on them.

  Attributes:
    model: the model.
    tables: its tokenizer.
    queries: one for each text.
    empty_end: log-weight of an end that the query's nodes do not tell of, of
      each.
    spelled: whether the model can spell each; else it has no say in it.
    trust_model: see `lemma.rows`.
  """

  model: Model
  tables: Tables
  queries: Sequence[ScoringQuery]
  empty_end: Sequence[float] = ()
  spelled: Sequence[bool] = ()
  trust_model: bool = False


class Drawn(NamedTuple):
  """Results of drawing one text, on the host.

  Attributes:
    text: bytes drawn.
    logprob: `float32[n]` log-prob of each, and of the end; see
      `State.logprob`.
    status: see `generate`.
    calls: model calls.
    slots: most cache slots in use, of all members together.
    error: share of the text's probability that was left out.
  """

  text: bytes
  logprob: Float[np.ndarray, " n"]
  status: int
  calls: int
  slots: int
  error: float


def capacity_of(tokens: int) -> int:
  """The bucket of cache slots for so many tokens."""
  size = 256
  while size < tokens:
    size *= 4
  return size


def batch_of(texts: int) -> int:
  """The bucket of texts side by side."""
  return 1 << (texts - 1).bit_length()


class Batch:
  """Texts side by side, of one model or of several together."""

  def __init__(
    self,
    readers: Sequence[Reader],
    *,
    pool: Pool | None = None,
    log_weights: Float[np.ndarray, "B K"] | None = None,
    keys: jax.Array | None = None,
    more: int = 0,
    entries: bool = False,
    pinned: bool = False,
  ):
    """Reads the texts of queries.

    Args:
      readers: the models.
      pool: how members become one.
      log_weights: of the members; not needed for one alone.
      keys: `key[B]` of each text; not needed if nothing is drawn.
      more: bytes that are likely to follow.
      entries: show the models the last entries too: their next bytes are
        wanted.
      pinned: read byte by byte, as `push` does: bit for bit the same results
        whatever the pieces.

    Raises:
      PromptError: a text is longer than a model's context.
    """
    self._tables = tuple(reader.tables for reader in readers)
    self._params = tuple(reader.model.params for reader in readers)
    self._readers = tuple(readers)
    self.texts = len(readers[0].queries)
    self._pinned = pinned
    self._shared = False
    self.size = batch_of(self.texts)
    for reader in readers:
      check_length(reader)
    members, sizes, waiting = [], [], []
    for reader in readers:
      size, member, rest = self._begin(reader, more, entries)
      members.append(member)
      sizes.append(size)
      waiting.append(rest)
    self.config = LoopConfig(members=tuple(sizes), pool=pool)
    key_data = np.zeros((self.size, 2), np.uint32)
    if keys is not None:
      key_data = self._key_data(keys)
    zero = np.zeros(self.size, np.int32)
    weights = np.zeros((self.size, len(readers)), np.float32)
    if log_weights is not None:
      weights[: self.texts] = log_weights
    self.state = shard_batch(
      self._params,
      State(
        members=tuple(members),
        log_weights=weights,
        output=np.zeros((self.size, OUTPUT), np.uint8),
        logprob=np.zeros((self.size, OUTPUT), np.float32),
        count=zero,
        recent=np.zeros((self.size, STOPS[1]), np.uint8),
        length=zero,
        limit=zero,
        taken=zero,
        key=key_data,
        dfa_state=zero,
        status=np.full(self.size, RUNNING, np.int32),
        calls=zero,
        needs=np.int32(0),
      ),
      self.size,
    )
    self._over = np.zeros(self.size, bool)
    self._output: list[list[bytes]] = [[] for _ in range(self.texts)]
    self._logprob: list[list[np.ndarray]] = [[] for _ in range(self.texts)]
    # What is short is read by the loop, one member's text at a time.
    self._pending = waiting

  def _key_data(self, keys: jax.Array) -> np.ndarray:
    """Data of the texts' random keys; their kind goes to the config."""
    own = np.asarray(jax.random.key_data(keys))
    found = np.zeros((self.size, own.shape[1]), np.uint32)
    found[: self.texts] = own
    impl = str(jax.random.key_impl(keys))
    self.config = dataclasses.replace(self.config, key_impl=impl)
    return found

  def _begin(self, reader: Reader, more: int, entries: bool):
    """A member's state, and the texts that the loop has yet to read."""
    queries, tables, model = reader.queries, reader.tables, reader.model
    longest = max(len(query.text) for query in queries)
    prefix = max(len(query.prefix) for query in queries)
    capacity = capacity_of(prefix + (longest + more) // 2 + 48)
    sizes = _CHUNKS[min(capacity, 1024)]
    size = EngineConfig.of(
      model,
      tables,
      capacity=capacity,
      trust_model=reader.trust_model,
      **sizes,
    )
    bare = any(end > -np.inf for end in reader.empty_end)
    short = self._pinned or (longest <= GIVEN and not entries)
    short &= not bare
    given, places = distinct(
      [(q.prefix, b"" if short else q.text, q.start) for q in queries]
    )
    member = begin(size, reader, given)
    if not short:
      need = reading.ENTRIES if entries else reading.LEAD
      texts = [text for _, text, _ in given]
      texts += [b""] * (len(member.num_bytes) - len(texts))
      size, member, _ = read_texts(
        size, reader, member, texts, reading.ALL if bare else need
      )
    if len(given) != self.size or (places != np.arange(len(places))).any():
      rest = np.zeros(self.size - self.texts, np.int32)
      member = take(member, np.concatenate([places, rest]))
    if len(reader.empty_end):
      ends = np.full(self.size, -np.inf, np.float32)
      ends[: self.texts] = reader.empty_end
      member = member._replace(empty_end=ends)
    if len(reader.spelled) and not all(reader.spelled):
      able = np.ones(self.size, bool)
      able[: self.texts] = reader.spelled
      member = _silence(member, able)
    texts = [query.text if short else b"" for query in queries]
    return size, member, texts

  def run(
    self,
    request: DecodeRequest,
    given: Sequence[bytes] | None = None,
    rounds: int | None = None,
  ) -> int:
    """Reads given bytes and draws, with as much room as that turns out to need.

    Returns:
      How many rounds are left.
    """
    self._read_pending(request)
    return self._run(request, given, rounds)

  def _read_pending(self, request):
    """Reads the short texts that the queries began with, member by member."""
    pending, self._pending = self._pending, []
    if not any(any(texts) for texts in pending):
      return
    # What is left out of a context may be what goes on.
    request = exact() if self._pinned else request._replace(eps=np.float32(0))
    if len({tuple(texts) for texts in pending}) == 1:
      self._run_given(request, pending[0])
      return
    # Members whose tokenizers work on other bytes read theirs apart.
    for k, texts in enumerate(pending):
      alone = self._alone(k)
      alone._run_given(request, texts)
      self._put(k, alone)

  def _alone(self, k: int) -> "Batch":
    one = copy.copy(self)
    one._tables, one._params = (self._tables[k],), (self._params[k],)
    one.config = dataclasses.replace(
      self.config, members=(self.config.members[k],), pool=None
    )
    one.state = self.state._replace(
      members=(self.state.members[k],),
      log_weights=np.zeros((self.size, 1), np.float32),
    )
    return one

  def _put(self, k: int, one: "Batch"):
    members, sizes = list(self.state.members), list(self.config.members)
    members[k], sizes[k] = one.state.members[0], one.config.members[0]
    # All else has been donated.
    self.state = one.state._replace(
      members=tuple(members), log_weights=self.state.log_weights
    )
    self.config = dataclasses.replace(self.config, members=tuple(sizes))

  def _run_given(self, request, texts):
    """Reads bytes alone: draws nothing."""
    self._own()
    limit = self.state.limit
    halt = np.zeros(self.size, np.int32)
    self.state = self.state._replace(limit=halt)
    longest = max(map(len, texts))
    for first in range(0, longest, GIVEN):
      self._run(request, [text[first : first + GIVEN] for text in texts])
    self._check_context()
    self.state = self.state._replace(limit=limit)

  def _check_context(self):
    if (np.asarray(self.state.status)[: self.texts] == CONTEXT).any():
      raise too_long(self.config.members)

  def _run(self, request, given=None, rounds=None) -> int:
    self._own()
    byte = np.zeros((self.size, GIVEN), np.uint8)
    length = np.zeros(self.size, np.int32)
    for k, text in enumerate(given or ()):
      byte[k, : len(text)] = np.frombuffer(text, np.uint8)
      length[k] = len(text)
    left = _FOREVER if rounds is None else np.int32(rounds)
    self.state = self.state._replace(
      taken=np.zeros(self.size, np.int32),
      recent=_of_width(self.state.recent, request.stops.shape[1]),
    )
    while True:
      self.state, left = _generate(
        self.config,
        self._tables,
        self._params,
        request,
        Given(byte, length),
        self.state,
        left,
      )
      names = ("output", "logprob", "count", "status", "length", "limit")
      found = jax.device_get(
        {name: getattr(self.state, name) for name in names}
        | {"needs": self.state.needs, "left": left}
      )
      self._drain(found)
      if found["needs"] & Needs.NUMBERS:
        raise not_numbers()
      if found["needs"]:
        self.config, self.state = _grow(self.config, self.state)
        continue
      running = (found["status"] == RUNNING) & (
        found["length"] < found["limit"]
      )
      if not (running.any() and found["left"] > 0):
        return int(found["left"])

  def _drain(self, found):
    """Takes what was drawn."""
    for k in range(self.texts):
      count = int(found["count"][k])
      self._output[k].append(found["output"][k, :count].tobytes())
      more = int(found["status"][k] == ENDED and not self._over[k])
      self._logprob[k].append(found["logprob"][k, : count + more])
    self._over = found["status"] == ENDED
    self.state = self.state._replace(count=np.zeros(self.size, np.int32))

  def push(self, texts: Sequence[bytes]) -> None:
    """Goes on with bytes after each text.

    Many are read many at a model call, unless the batch is pinned.

    Raises:
      PromptError: a text is longer than a model's context.
    """
    self._read_pending(settle())
    if self._pinned or max(map(len, texts)) <= GIVEN:
      self._run_given(exact() if self._pinned else settle(), texts)
      return
    self._own()
    padded = [*texts, *[b""] * (self.size - self.texts)]
    members, sizes = [], []
    for k, (size, member) in enumerate(
      zip(self.config.members, self.state.members, strict=True)
    ):
      size, member, _ = read_texts(
        size, self._readers[k], member, padded, reading.ENTRIES
      )
      members.append(member)
      sizes.append(size)
    self.state = self.state._replace(members=tuple(members))
    self.config = dataclasses.replace(self.config, members=tuple(sizes))

  def begin_draws(self, keys: jax.Array) -> None:
    """Makes ready to draw, from the texts as they are."""
    zero = np.zeros(self.size, np.int32)
    self.state = self.state._replace(
      key=self._key_data(keys),
      count=zero,
      length=zero,
      limit=zero,
      calls=zero,
      dfa_state=zero,
      status=np.full(self.size, RUNNING, np.int32),
      recent=np.zeros_like(self.state.recent),
    )
    self._output = [[] for _ in range(self.texts)]
    self._logprob = [[] for _ in range(self.texts)]
    self._over = np.zeros(self.size, bool)

  def limit(self, bytes_: int) -> None:
    """How many bytes are drawn of each text, from now on."""
    wanted = np.zeros(self.size, np.int32)
    wanted[: self.texts] = bytes_
    status = np.array(self.state.status)
    status[status == FULL] = RUNNING
    length = np.asarray(self.state.length)
    self.state = self.state._replace(
      limit=np.where(wanted > 0, length + wanted, length).astype(np.int32),
      status=status,
    )

  def halt(self, status: int) -> None:
    """Stops all texts before they begin."""
    self.state = self.state._replace(
      status=np.full(self.size, status, np.int32)
    )

  @property
  def running(self) -> bool:
    """Whether any text still goes on."""
    status, length, limit = jax.device_get(
      (self.state.status, self.state.length, self.state.limit)
    )
    going = (status == RUNNING) & (length < limit)
    return bool(going[: self.texts].any())

  def logprobs(self) -> Float[np.ndarray, "B 257"]:
    """Next-byte log-probs of all texts; normalized, exact."""
    self.run(settle())
    self._check_context()
    found = _next(
      self.config, self._tables, self.state.members, self.state.log_weights
    )
    rows = np.asarray(found)[: self.texts]
    if np.isnan(rows).any():
      raise not_numbers()
    return rows

  def fork(self) -> "Batch":
    """The same texts once more; what they share is copied when one goes on."""
    other = copy.copy(self)
    other._output = [list(parts) for parts in self._output]
    other._logprob = [list(parts) for parts in self._logprob]
    self._shared = other._shared = True
    return other

  def _own(self):
    """Copies the state where another one has it, too: it will be donated."""
    if self._shared:
      self.state = _copy(self.state)
      self._shared = False

  def drawn(self) -> list[Drawn]:
    """The texts so far."""
    state = jax.device_get(
      {
        "status": self.state.status,
        "calls": self.state.calls,
        "members": [(m.peak, m.kept) for m in self.state.members],
      }
    )
    peak = sum(peak for peak, _ in state["members"])
    kept = np.min([kept for _, kept in state["members"]], axis=0)
    return [
      Drawn(
        text=b"".join(self._output[k]),
        logprob=np.concatenate([np.zeros(0, np.float32), *self._logprob[k]]),
        status=int(state["status"][k]),
        calls=int(state["calls"][k]),
        slots=int(peak[k]),
        error=max(0.0, -float(np.expm1(kept[k]))),
      )
      for k in range(self.texts)
    ]


def check_length(reader: Reader) -> None:
  """Refuses texts that no tokens make short enough, before anything runs.

  Raises:
    PromptError: there is one.
  """
  for query in reader.queries:
    least = len(query.prefix) + -(-len(query.text) // reader.tables.longest)
    if least > reader.model.context_length:
      raise PromptError(
        f"The text needs at least {least} tokens ({len(query.text)} bytes"
        f" after {len(query.prefix)} tokens) and the model's context has"
        f" {reader.model.context_length}; shorten it, or score it with"
        " window=."
      )


def not_numbers() -> PromptError:
  """The error of a model that is broken."""
  return PromptError(
    "The model's logits are not numbers (NaN): its weights are broken, or its"
    " dtype is too narrow for them."
  )


def too_long(sizes: Sequence[EngineConfig]) -> PromptError:
  """The error of a text that does not fit."""
  context = min(size.context_length for size in sizes)
  return PromptError(
    f"The text needs more tokens than fit: the model's context has {context};"
    " shorten it, or score it with window=."
  )


def begin(
  size: EngineConfig,
  reader: Reader,
  given: Sequence[tuple[tuple[int, ...], bytes, int]],
) -> MemberState:
  """The state before the texts of queries, `(prefix, text, start)` each.

  There are a power of two of them, the last ones padding.
  """
  count = batch_of(len(given))
  given = [
    *given,
    *[((given[0][0][-1],), b"", given[0][2])] * (count - len(given)),
  ]
  start = np.array([start for _, _, start in given], np.int32)
  root = np.array([ids[-1] for ids, _, _ in given], np.int32)
  model = reader.model
  member = _init(size, model.init_cache, reader.tables, start, root)
  if any(len(ids) > 1 for ids, _, _ in given):
    ids = np.zeros((count, size.capacity), np.int32)
    for row, (own, _, _) in zip(ids, given, strict=True):
      row[: len(own) - 1] = own[:-1]
    number = np.array([len(own) - 1 for own, _, _ in given], np.int32)
    member = _prefill(size, model.params, member, ids, number)
  return member


def read_texts(
  size: EngineConfig,
  reader: Reader,
  member: MemberState,
  texts: Sequence[bytes],
  need: int,
  *,
  eps: float = 0.0,
  along: bool = False,
) -> tuple[
  EngineConfig, MemberState, list[tuple[np.ndarray, np.ndarray | None]]
]:
  """Reads texts many bytes at a model call.

  Args:
    size: what the state was made with.
    reader: the model and its tokenizer; the queries do not matter.
    member: the state; donated.
    texts: one for each text of the state.
    need, eps, along: see `read`.

  Returns:
    The config and the state after them; each byte's log-prob and, if they are
    asked for, the next-byte log-probs after it.

  Raises:
    PromptError: a text is longer than the model's context.
  """
  batch = len(texts)
  done = np.zeros(batch, int)
  found: list[list[np.ndarray]] = [[] for _ in texts]
  after: list[list[np.ndarray]] = [[] for _ in texts]
  total = np.array([len(text) for text in texts])
  first = True
  while first or (done < total).any():
    first = False
    width = 2 * size.capacity
    byte = np.zeros((batch, width), np.uint8)
    length = np.minimum(total - done, width).astype(np.int32)
    for row, text, at, count in zip(byte, texts, done, length, strict=True):
      row[:count] = np.frombuffer(text[at : at + count], np.uint8)
    member, told = _read(
      size,
      reader.tables,
      reader.model.params,
      member,
      byte,
      length,
      np.int32(need),
      np.float32(eps),
      along=along,
    )
    told = jax.device_get(told)
    for k, (row, count) in enumerate(
      zip(told.logprob, told.taken, strict=True)
    ):
      found[k].append(row[:count])
      if along:
        after[k].append(told.next[k, :count])
    done += told.taken
    if told.late.any():
      raise too_long([size])
    if told.slots.any():
      size, member = _grow_member(size, member, Needs.SLOTS)
    elif told.overflow.any():
      size, member = _grow_member(size, member, Needs.FRONTIER)
  logprob, total, seen = jax.device_get(
    (member.logprob, member.rows.total, member.evaluated)
  )
  if (np.isnan(logprob) | (np.isnan(total) & seen)).any():
    raise not_numbers()
  empty, none = np.zeros(0, np.float32), np.zeros((0, 257), np.float32)
  return (
    size,
    member,
    [
      (
        np.concatenate([empty, *parts]),
        np.concatenate([none, *rows]) if along else None,
      )
      for parts, rows in zip(found, after, strict=True)
    ],
  )


def _of_width(recent: Any, width: int) -> Any:
  """The last bytes of texts, as many as the longest stop string may have."""
  have = recent.shape[1]
  if have == width:
    return recent
  more = max(width - have, 0)
  return np.pad(np.asarray(recent), ((0, 0), (more, 0)))[:, -width:]


@functools.cache
def free_constraint() -> Constraint:
  """The constraint that allows everything."""
  return Constraint.free()


def stop_table(
  stop: Sequence[bytes], count: int, longest: int
) -> tuple[UInt8[np.ndarray, "K L"], Int[np.ndarray, " K"]]:
  """Stop strings, padded on the left, and their lengths; 0 for none.

  Args:
    stop: the stop strings.
    count, longest: room for so many, of so many bytes.
  """
  table = np.zeros((count, longest), np.uint8)
  length = np.zeros(count, np.int32)
  for k, text in enumerate(stop):
    table[k, longest - len(text) :] = np.frombuffer(text, np.uint8)
    length[k] = len(text)
  return table, length


def request_of(
  warpers: LogitWarpers,
  *,
  stop: Sequence[bytes] = (),
  constraint: Constraint | None = None,
  eps: float = 0.0,
  exact: bool = False,
  settled: bool = False,
) -> DecodeRequest:
  """A request, its tables padded to what the programs are compiled for."""
  count, longest = STOPS
  count = max(count, batch_of(max(len(stop), 1)))
  longest = max(longest, batch_of(max(map(len, stop), default=1)))
  stops, stop_length = stop_table(stop, count, longest)
  return DecodeRequest(
    warpers=warpers,
    stops=stops,
    stop_length=stop_length,
    constraint=constraint or free_constraint(),
    eps=np.float32(eps),
    exact=np.bool_(exact),
    settle=np.bool_(settled),
  )


@functools.cache
def exact() -> DecodeRequest:
  """The request that evaluates all entries before each byte."""
  return settle()._replace(exact=np.bool_(True))


@functools.cache
def settle() -> DecodeRequest:
  """The request that draws nothing, and evaluates all entries."""
  warpers = LogitWarpers(
    np.float32(1), np.int32(257), np.float32(1), np.float32(0), np.bool_(False)
  )
  return request_of(warpers, settled=True)


_init = Program(init, static_argnums=(0, 1))
_prefill = Program(prefill, static_argnums=0, donate_argnums=2)
_read = Program(
  reading.read, static_argnums=0, static_argnames="along", donate_argnums=3
)
_generate = Program(generate, static_argnums=0, donate_argnums=5)


@Program
def take(member: Any, places: Any) -> Any:
  """A batch made of some texts of another."""
  return jax.tree.map(lambda leaf: leaf[places], member)


@Program
def _silence(member, able):
  """A member that has no say in the texts that it cannot spell."""
  frontier = member.frontier
  node = jnp.where(able[:, None], frontier.node, NONE)
  place = jnp.where(able[:, None], frontier.trie_node, NONE)
  return member._replace(frontier=frontier._replace(node=node, trie_node=place))


@Program
def _copy(state):
  return jax.tree.map(jnp.copy, state)


@functools.partial(Program, static_argnums=0)
def _next(config: LoopConfig, tables, members, log_weights):
  """See `Batch.logprobs`."""
  everyone = jnp.ones(log_weights.shape[0], bool)
  known = [
    known_logprobs(table, member, everyone)
    for table, member in zip(tables, members, strict=True)
  ]
  # Sums may lose what is no number.
  broken = [
    (jnp.isnan(member.rows.total) & member.evaluated).any(1)
    for member in members
  ]
  found = combine.exact(config.pool, log_weights, known)
  return jnp.where(jnp.stack(broken).any(0)[:, None], jnp.nan, found)


def _grow(config: LoopConfig, state: State) -> tuple[LoopConfig, State]:
  needs = int(state.needs)
  found = [
    _grow_member(size, member, needs)
    for size, member in zip(config.members, state.members, strict=True)
  ]
  return (
    dataclasses.replace(config, members=tuple(size for size, _ in found)),
    state._replace(
      members=tuple(member for _, member in found), needs=np.int32(0)
    ),
  )


def _grow_member(size, member, needs: int):
  after = growth.grown(size, needs)
  return after, _grown(size, needs, member)


@functools.partial(Program, static_argnums=(0, 1))
def _grown(size, needs, member):
  return growth.grow(size, needs, member)
