"""Host: the sampler's first state, made of prompts, and more room for it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from byteprob import covers, scoring
from byteprob.plan import Query, bucket, distinct, pad_texts, spread
from byteprob.rules.common import NONE
from byteprob.sampling import state as states
from byteprob.sampling.settings import Settings
from byteprob.sampling.state import Lanes, Limits, Member, Setup, State
from byteprob.tokenization.tables import Tables
from byteprob.types import Cache, Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A prompt.

  Attributes:
    query: its working text.
    ending: log-weight of an end that the query's nodes do not tell of.
    key: the random key of its text.
    spelled: whether the model can spell it; else it has no say in the text.
  """

  query: Query
  ending: float
  key: jax.Array
  spelled: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
  """A model, and the prompts as it reads them.

  Attributes:
    model: the model.
    tables: its tokenizer.
    prompts: one for each text.
    trust_model: see `lemma.rows`.
  """

  model: Model
  tables: Tables
  prompts: Sequence[Prompt]
  trust_model: bool = False


def read(reader: Reader, settings: Settings) -> tuple[Limits, Member]:
  """A model's prompts, read; what it knows of the texts before the first
  byte. What several texts begin with is read once.
  """
  model, tables, prompts = reader.model, reader.tables, reader.prompts
  queries, places = distinct([prompt.query for prompt in prompts])
  done = scoring.run(
    model, tables, queries, trust_model=reader.trust_model, keep_rows=True
  )
  scoring.check_numbers(done.sums.ending)
  batch, width = len(prompts), done.front.node.shape[1]
  spare = _spare(settings)
  sizes = _sizes(settings.rows)
  # Two tokens for three bytes: more room is made where they are more.
  order, attends = _compact(
    done.plan.attends(), 2 * settings.max_bytes // 3 + 4 * sizes[-1]
  )
  limits = Limits(
    extend=model.extend,
    capacity=covers.Capacity(
      nodes=max(
        done.nodes.token.shape[1],
        bucket(int(done.host_nodes.count.max()) + spare + spare // 4),
      ),
      states=done.nodes.states.shape[2],
      width=width,
    ),
    slots=order.shape[1],
    context_length=model.context_length,
    sizes=sizes,
    trust_model=reader.trust_model,
    prunes=settings.eps > 0,
  )
  fresh, _ = jax.vmap(
    lambda start: covers.begin(tables, limits.capacity, start)
  )(jnp.array([query.start for query in queries], jnp.int32))
  spelled = np.array([prompt.spelled for prompt in prompts])
  node = np.where(spelled[:, None], done.host_front.node[places], NONE)
  live = jnp.asarray(node != NONE)
  lane = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], live.shape)
  rows = jax.tree.map(
    lambda leaf: _grow(leaf, 1, limits.kept).reshape(
      batch * limits.kept, *leaf.shape[2:]
    ),
    spread(done.sums.front_rows, places),
  )
  text = done.path.node.shape[1]
  path = covers.Path(*(_grow(leaf, 1, text + spare) for leaf in done.path))
  weight = spread(done.weights.front, places)
  return limits, Member(
    nodes=spread(jax.tree.map(_put, fresh, done.nodes), places),
    front=covers.Front(
      node=jnp.asarray(node),
      place=spread(done.front.place, places),
      overflow=jnp.zeros(batch, bool),
    ),
    path=spread(path, places),
    lanes=Lanes(
      weight=jnp.where(live, weight, -jnp.inf),
      row=jnp.where(live, lane, NONE),
      attends=jnp.asarray(attends[places]),
    ),
    settled=spread(done.nodes.count, places),
    offset=jnp.asarray(done.plan.offset[places]),
    rows=rows,
    cache=moved(done.cache, order[places], places),
    ending=jnp.array([prompt.ending for prompt in prompts], jnp.float32),
    read=jnp.array([len(queries[k].text) for k in places], jnp.int32),
    kept=jnp.zeros(batch),
    peak=jnp.zeros(batch, jnp.int32),
  )


def begin(prompts, members, share, settings) -> State:
  """The sampler's first state."""
  queries = [prompt.query for prompt in prompts]
  batch, most = len(prompts), bucket(settings.max_bytes)
  text = pad_texts(queries)[0]
  if share is None:
    share = np.zeros((batch, len(members)))
  return State(
    members=members,
    share=jnp.asarray(share, jnp.float32),
    text=_grow(jnp.asarray(text), 1, text.shape[1] + _spare(settings), 0),
    read=jnp.array([len(query.text) for query in queries], jnp.int32),
    length=jnp.zeros(batch, jnp.int32),
    logprob=jnp.zeros((batch, most + 1)),
    limit=jnp.full(batch, settings.max_bytes, jnp.int32),
    key=jnp.stack([prompt.key for prompt in prompts]),
    guard=jnp.zeros(batch, jnp.int32),
    status=jnp.full(batch, states.RUNNING, jnp.int32),
    calls=jnp.zeros(batch, jnp.int32),
    crowded=jnp.bool_(False),
    overflow=jnp.bool_(False),
  )


def _spare(settings: Settings) -> int:
  """Bytes that may come after the prompts."""
  return bucket(settings.max_bytes) + settings.ahead + 1


def _compact(
  attends: Bool[np.ndarray, "B W S"], spare: int
) -> tuple[Int[np.ndarray, "B s"], Bool[np.ndarray, "B W s"]]:
  """Leaves out the slots that no live start attends to.

  Returns:
    Which slot goes to each place, and `attends` of the places; as many of
    these as are needed, and `spare` ones.
  """
  live = attends.any(1)
  count = live.sum(1)
  size = bucket(int(count.max()) + spare)
  order = np.zeros((len(live), size), np.int32)
  moved = np.zeros((*attends.shape[:2], size), bool)
  for row, lanes, new, old in zip(live, attends, moved, order, strict=True):
    (slots,) = np.nonzero(row)
    old[: len(slots)] = slots
    new[:, : len(slots)] = lanes[:, slots]
  return order, moved


def moved(
  cache: Cache, order: Int[Array, "B s"], places: Int[np.ndarray, " B"]
) -> Cache:
  """A cache `[b, S, ...]` with only the slots of an order, in that order.

  Args:
    cache: of distinct texts.
    order: the slots that each text keeps.
    places: which of the distinct ones each text is; see `plan.distinct`.
  """
  if len(places) == len(jax.tree.leaves(cache)[0]):
    # Each device of a mesh moves its own texts.
    return _moved(cache, order)
  return _moved_apart(cache, order, places)


@jax.jit
def _moved(cache, order):
  move = jax.vmap(lambda leaf, order: leaf[order])
  return jax.tree.map(lambda leaf: move(leaf, order), cache)


@jax.jit
def _moved_apart(cache, order, places):
  return jax.tree.map(lambda leaf: leaf[places[:, None], order], cache)


def _sizes(rows: int) -> tuple[int, ...]:
  """One row, and doublings from four: two cost a CPU as much as four."""
  sizes, size = [1], 4
  while size < rows:
    sizes.append(size)
    size *= 2
  return (*sizes, rows)


def _grow(leaf, axis: int, size: int, fill=NONE):
  """An array with more places at the end of an axis."""
  more = [(0, 0)] * leaf.ndim
  more[axis] = (0, max(size - leaf.shape[axis], 0))
  return jnp.pad(leaf, more, constant_values=fill)


def _put(large, small):
  """A larger array with a smaller one at its beginning."""
  return large.at[tuple(slice(size) for size in small.shape)].set(small)


def widen(
  tables: tuple[Tables, ...], setup: Setup, state: State
) -> tuple[Setup, State]:
  """More room for everything, or for slots where only these run short.

  Wider trees ask for more slots: were both to grow, they might for ever.
  """
  slots_alone = not bool(state.overflow)
  found = [
    _widen(*one, slots_alone)
    for one in zip(tables, setup.members, state.members, strict=True)
  ]
  setup = dataclasses.replace(
    setup, members=tuple(limits for limits, _ in found)
  )
  return setup, state._replace(
    members=tuple(member for _, member in found),
    crowded=jnp.bool_(False),
    overflow=jnp.bool_(False),
  )


def _widen(
  tables: Tables, limits: Limits, member: Member, slots_alone: bool
) -> tuple[Limits, Member]:
  """More room for what one model knows."""
  batch = len(member.read)
  capacity, slots = limits.capacity, limits.slots
  if not slots_alone:
    nodes = capacity.nodes + capacity.nodes // 2
    capacity = dataclasses.replace(capacity.twice(), nodes=nodes)
  # All nodes that one byte brings are evaluated in one call.
  more = (capacity.born,) if capacity.born > limits.tree else ()
  wider = dataclasses.replace(
    limits,
    capacity=capacity,
    slots=bucket(slots + slots // 2),
    sizes=limits.sizes + more,
  )
  fresh, _ = jax.vmap(lambda start: covers.begin(tables, capacity, start))(
    jnp.zeros(batch, jnp.int32)
  )

  def lanes(leaf, fill):
    return _grow(leaf, 1, capacity.width, fill)

  def keep(leaf):
    leaf = leaf.reshape(batch, limits.kept, *leaf.shape[1:])
    leaf = _grow(leaf, 1, wider.kept)
    return leaf.reshape(batch * wider.kept, *leaf.shape[2:])

  return wider, member._replace(
    nodes=jax.tree.map(_put, fresh, member.nodes),
    front=covers.Front(
      node=lanes(member.front.node, NONE),
      place=lanes(member.front.place, 0),
      overflow=jnp.zeros(batch, bool),
    ),
    path=covers.Path(*(_grow(leaf, 2, capacity.width) for leaf in member.path)),
    lanes=Lanes(
      weight=lanes(member.lanes.weight, -jnp.inf),
      row=lanes(member.lanes.row, NONE),
      attends=_grow(lanes(member.lanes.attends, False), 2, wider.slots, False),
    ),
    rows=jax.tree.map(keep, member.rows),
    cache=jax.tree.map(
      lambda leaf: _grow(leaf, 1, wider.slots, 0), member.cache
    ),
  )
