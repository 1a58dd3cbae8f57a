"""Device: the sampler's loop, many bytes a model call.

Between two model calls all that is known of the text's nodes is the *front*:
the live starts, each with its weight, its row of token log-probs and the
cache slots that it attends to. A round drafts bytes from the rows that are
there (new nodes are born, unevaluated), evaluates all new nodes in one call,
draws the same bytes again from the exact distributions with the same random
numbers, and commits those that agree and the first that does not. So every
committed byte is drawn from its exact distribution, whatever was drafted.

Source: the Byte-Token Representation Lemma (arXiv 2410.09303); drafting with
common random numbers is ours.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from byteprob import controls as controls_
from byteprob import covers, lemma
from byteprob.controls import Controls
from byteprob.covers import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Cache, Extend, Params

RUNNING, ENDED, FULL, STOPPED, CONTEXT, IMPOSSIBLE = range(6)
"""Why a row goes on or has stopped: it runs; the text's end was drawn; as
many bytes as asked for; a stop string; the model's context is full; no byte
was possible.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What the loop is compiled for.

  Attributes:
    capacity: room for nodes.
    ahead: bytes drafted at most; 0 for one model call a byte.
    sizes: rows of a model call, in ascending order; the smallest that holds
      the new nodes is taken, the last bounds them.
    doubt: drafting stops when the nodes not yet evaluated weigh more.
    slots: `S`.
    context_length: see `Model`.
    trust_model: see `lemma.rows`.
  """

  capacity: covers.Capacity
  slots: int
  context_length: int
  ahead: int = 12
  sizes: tuple[int, ...] = (1, 2, 4, 8)
  doubt: float = 0.3
  trust_model: bool = False

  @property
  def tree(self) -> int:
    """New nodes of a call at most."""
    return self.sizes[-1]

  @property
  def kept(self) -> int:
    """Rows that are kept of a text."""
    return self.capacity.width + self.tree


class Lanes(NamedTuple):
  """What is known of the front's live starts, `[B, W, ...]` each.

  Attributes:
    weight: `float32` log of the node's probability over that of the text.
    row: `int32` which of `State.rows`, -1 if the node is not evaluated.
    attends: `bool[B, W, S]` slots of the node and its ancestors; without its
      own if it is not evaluated.
  """

  weight: Float[Array, "B W"]
  row: Int[Array, "B W"]
  attends: Bool[Array, "B W S"]


class State(NamedTuple):
  """A batch of texts under way.

  Attributes:
    nodes: all nodes since the root, `[B, ...]`.
    front: the live starts.
    path: the live starts after each byte, for the tokenizer's law.
    lanes: what is known of them.
    settled: `int32[B]` nodes below it are evaluated.
    offset: `int32[B]` position of the root's row in the model.
    read: `int32[B]` bytes of the working text so far.
    rows: what the evaluated rows say, `[B * kept, ...]`.
    cache: the model's.
    ending: `float32[B]` log-weight of an end of the text that no live start
      tells of; for the empty text of tokenizers that begin with a space.
    text: `uint8[B, M]` bytes drawn.
    logprob: `float32[B, M + 1]` their log-probs, and the end's.
    length: `int32[B]` how many.
    limit: `int32[B]` how many are wanted.
    key: `key[B]` of each text.
    status: `int32[B]` see above.
    calls: `int32[B]` model calls.
    peak: `int32[B]` most slots in use.
    crowded: `bool[]` something did not fit; the last round was not committed.
  """

  nodes: covers.Nodes
  front: covers.Front
  path: covers.Path
  lanes: Lanes
  settled: Int[Array, " B"]
  offset: Int[Array, " B"]
  read: Int[Array, " B"]
  rows: lemma.Rows
  cache: Cache
  ending: Float[Array, " B"]
  text: UInt8[Array, "B M"]
  logprob: Float[Array, "B L"]
  length: Int[Array, " B"]
  limit: Int[Array, " B"]
  key: jax.Array
  status: Int[Array, " B"]
  calls: Int[Array, " B"]
  peak: Int[Array, " B"]
  crowded: Bool[Array, ""]


class _Draft(NamedTuple):
  """Bytes drafted, and the fronts between them, `[B, D (+ 1), ...]`.

  Attributes:
    size: `int32[B]` bytes drafted.
    byte: `int32[B, D]`.
    node, place: `int32[B, D + 1, W]` the front before each, and the last.
    count: `int32[B, D + 1]` nodes before each, and in the end.
    terms: `float32[B, D + 1, W, 257]` what evaluated live starts say.
    nodes, path: as grown by the draft.
    doubt: `float32[B]` weight of the nodes not evaluated.
    going: `bool[B]` whether to go on.
  """

  size: Int[Array, " B"]
  byte: Int[Array, "B D"]
  node: Int[Array, "B E W"]
  place: Int[Array, "B E W"]
  count: Int[Array, "B E"]
  terms: Float[Array, "B E W 257"]
  nodes: covers.Nodes
  path: covers.Path
  doubt: Float[Array, " B"]
  going: Bool[Array, " B"]


class _Tree(NamedTuple):
  """The nodes not yet evaluated, `[B, T, ...]`, in their order.

  Attributes:
    some: `bool` whether there is one.
    weight: `float32` as in `Lanes`, over the text at the round's beginning.
    row: `int32` where its row is kept.
    slot: `int32` its own slot.
    attends: `bool[B, T, S]` slots of its ancestors and its own.
  """

  some: Bool[Array, "B T"]
  weight: Float[Array, "B T"]
  row: Int[Array, "B T"]
  slot: Int[Array, "B T"]
  attends: Bool[Array, "B T S"]


@functools.partial(
  jax.jit, static_argnames=("extend", "limits"), donate_argnames="state"
)
def run(
  extend: Extend,
  limits: Limits,
  tables: Tables,
  params: Params,
  controls: Controls,
  stops: tuple[Array, Array],
  state: State,
  rounds: Int[Array, ""],
) -> State:
  """Runs rounds until all texts have stopped, or something does not fit.

  Args:
    extend: the model.
    limits: what the state was made with.
    tables: the tokenizer.
    params: the model's parameters.
    controls: how bytes are drawn.
    stops: `uint8[K, L]` stop strings, padded on the left, and `int32[K]`
      their lengths.
    state: the texts; donated.
    rounds: at most so many rounds.
  """

  def go_on(carry):
    state, left = carry
    return (state.status == RUNNING).any() & ~state.crowded & (left > 0)

  def body(carry):
    state, left = carry
    draft = _draft(limits, tables, controls, state)
    tree = _plant(limits, tables, state, draft)
    cache, rows = _evaluate(extend, limits, tables, params, state, draft, tree)
    tree = _weigh(limits, tables, state, draft, tree, rows)
    state = state._replace(cache=cache, rows=rows)
    state = _commit(limits, tables, controls, stops, state, draft, tree)
    return state, left - 1

  return jax.lax.while_loop(go_on, body, (state, rounds))[0]


def _lane_of(front_node, node):
  """Which lane of a front `[W]` holds each node; 0 if none."""
  return (front_node[None, :] == node[:, None]).argmax(1)


def _draft(limits, tables, controls, state) -> _Draft:
  """Draws bytes from what is evaluated, until that is too little."""
  batch, width = state.front.node.shape
  deep = limits.ahead
  capacity = limits.capacity
  each = jnp.arange(batch)
  waiting = (state.front.node >= state.settled[:, None]) & (
    state.front.node != NONE
  )
  weight = jnp.where(waiting, state.lanes.weight, -jnp.inf)

  def begin(shape, fill=NONE):
    return jnp.full((batch, *shape), fill, jnp.int32)

  draft = _Draft(
    size=begin((), 0),
    byte=begin((deep,), 0),
    node=begin((deep + 1, width)).at[:, 0].set(state.front.node),
    place=begin((deep + 1, width)).at[:, 0].set(state.front.place),
    count=begin((deep + 1,), 0).at[:, 0].set(state.nodes.count),
    terms=jnp.full((batch, deep + 1, width, 257), -jnp.inf),
    nodes=state.nodes,
    path=state.path,
    doubt=jnp.exp(weight).sum(1),
    going=state.status == RUNNING,
  )

  def read(draft: _Draft) -> _Draft:
    at = draft.size
    node, place = draft.node[each, at], draft.place[each, at]
    lane = jax.vmap(_lane_of)(state.front.node, node)
    own = (node != NONE) & (node < state.settled[:, None])
    pick = functools.partial(jnp.take_along_axis, indices=lane, axis=1)
    row = jnp.where(own, pick(state.lanes.row), NONE)
    weight = jnp.where(own, pick(state.lanes.weight), -jnp.inf)
    terms = _next_bytes(limits, tables, state.rows, row, place)
    total = _logsumexp(weight[:, :, None] + terms, 1)
    total = _with_ending(state, total, at)
    norm = _logsumexp(total, 1)
    byte = _draw(controls, state, at, total - norm[:, None])
    room = jnp.minimum(deep, state.limit - state.length - 1)
    going = draft.going & (draft.doubt <= limits.doubt) & (at < room)
    going &= (byte != EOS) & ~jnp.isneginf(norm)
    nodes, front = jax.vmap(
      functools.partial(covers.advance, tables, capacity)
    )(
      draft.nodes,
      covers.Front(node, place, jnp.zeros(batch, bool)),
      byte,
      going,
    )
    fits = ~front.overflow & (nodes.count - state.settled <= limits.tree)
    going &= fits
    born = jax.vmap(functools.partial(_born, tables, capacity.born))(
      draft.nodes.count,
      nodes,
      state.front.node,
      state.lanes,
      state.settled,
      state.rows.token.reshape(batch, limits.kept, -1),
    )
    share = jnp.exp(born - total[each, jnp.minimum(byte, EOS)])
    share = jnp.where(going, share, 0.0)
    nodes = nodes._replace(
      count=jnp.where(fits, nodes.count, draft.nodes.count)
    )
    after = jnp.where(going, at + 1, at)
    path = _write_path(draft.path, state.read + at, front, going)
    last = jnp.where(going, at + 1, deep + 1)
    return _Draft(
      size=after,
      byte=draft.byte.at[each, at].set(byte, mode="drop"),
      node=draft.node.at[each, last].set(front.node, mode="drop"),
      place=draft.place.at[each, last].set(front.place, mode="drop"),
      count=draft.count.at[each, last].set(nodes.count, mode="drop"),
      terms=draft.terms.at[each, at].set(terms),
      nodes=nodes,
      path=path,
      doubt=draft.doubt + share * (1 - draft.doubt),
      going=going,
    )

  return jax.lax.while_loop(lambda draft: draft.going.any(), read, draft)


def _born(tables, room, before, nodes, front_node, lanes, settled, token):
  """Log-weight of the newest nodes that evaluated nodes have borne."""
  at = before + jnp.arange(room, dtype=jnp.int32)
  there = at < nodes.count
  at = jnp.where(there, at, 0)
  parent = nodes.parent[at]
  there &= parent < settled
  lane = _lane_of(front_node, parent)
  value = token[lanes.row[lane], nodes.token[at]]
  value = jnp.where(there, lanes.weight[lane] + value, -jnp.inf)
  return _logsumexp(value, 0)


def _write_path(path, at, front, active):
  """Notes the front after a byte; see `covers.Path`."""
  each = jnp.arange(len(at))
  at = jnp.where(active, at, path.node.shape[1])
  return covers.Path(
    node=path.node.at[each, at].set(front.node, mode="drop"),
    place=path.place.at[each, at].set(front.place, mode="drop"),
  )


def _next_bytes(limits, tables, rows, row, place):
  """`lemma.next_bytes` of all texts, `[B, ..., 257]`."""
  first = limits.kept * jnp.arange(len(row), dtype=jnp.int32)
  first = first.reshape(-1, *[1] * (row.ndim - 1))
  flat = jnp.where(row == NONE, NONE, row + first).ravel()
  found = lemma.next_bytes(tables, rows, flat, place.ravel())
  return found.reshape(*row.shape, 257)


def _with_ending(state, total, at):
  """Adds the end that no live start tells of, before the first byte."""
  first = (at == 0) & (state.length == 0)
  ending = jnp.where(first, state.ending, -jnp.inf)
  return total.at[:, EOS].set(jnp.logaddexp(total[:, EOS], ending))


def _draw(controls, state, at, logprobs):
  """Draws with the random numbers of each text's step."""

  def one(key, step, logprobs):
    return controls_.draw(controls, jax.random.fold_in(key, step), logprobs)

  return jax.vmap(one)(state.key, state.length + at, logprobs)


def _plant(limits, tables, state, draft) -> _Tree:
  """Slots and rows for the new nodes, and what they attend to."""
  del tables
  batch = len(draft.size)
  size = limits.tree

  def one(nodes, settled, front_node, lanes):
    at = settled + jnp.arange(size, dtype=jnp.int32)
    some = at < nodes.count
    live = (front_node != NONE)[:, None] & lanes.attends
    slot = _free(live.any(0), size)
    used = (
      jnp.zeros(limits.kept, bool)
      .at[jnp.where(lanes.row == NONE, limits.kept, lanes.row)]
      .set(True, mode="drop")
    )
    row = _free(used, size)
    parent = nodes.parent[jnp.where(some, at, 0)]
    # A node that is in the front already knows its ancestors' slots.
    here = (front_node[None, :] == at[:, None]).any(1)
    source = _lane_of(front_node, jnp.where(here, at, parent))
    above = lanes.attends[source]
    inner = ~here & (parent >= settled)

    def grow(k, attends):
      known = attends[jnp.maximum(parent[k] - settled, 0)]
      own = jnp.where(inner[k], known, above[k])
      own |= jnp.arange(limits.slots) == slot[k]
      return attends.at[k].set(own & some[k])

    attends = jnp.zeros((size, limits.slots), bool)
    attends = jax.lax.fori_loop(0, size, grow, attends)
    return some, jnp.where(some, slot, limits.slots), row, attends

  some, slot, row, attends = jax.vmap(one)(
    draft.nodes, state.settled, state.front.node, state.lanes
  )
  return _Tree(
    some=some & (state.status == RUNNING)[:, None],
    weight=jnp.full((batch, size), -jnp.inf),
    row=row,
    slot=slot,
    attends=attends,
  )


def _free(used, size):
  """The first places that are not in use, past the end if there are none."""
  (found,) = jnp.nonzero(~used, size=size, fill_value=len(used))
  return found.astype(jnp.int32)


def _evaluate(extend, limits, tables, params, state, draft, tree):
  """One model call on the new nodes; their rows go where they are kept."""
  batch = len(draft.size)
  at = state.settled[:, None] + jnp.arange(limits.tree, dtype=jnp.int32)[None]
  at = jnp.where(tree.some, at, 0)
  each = jnp.arange(batch)[:, None]
  token = tables.token_id[draft.nodes.token[each, at]]
  position = state.offset[:, None] + draft.nodes.depth[each, at]

  def stand(nodes, path, at):
    every = covers.standing(tables, nodes, path)
    return jax.tree.map(lambda leaf: leaf[at], every)

  standing = jax.vmap(stand)(draft.nodes, draft.path, at)
  kept = each * limits.kept + tree.row
  kept = jnp.where(tree.some, kept, batch * limits.kept)

  def call(size, cache, rows):
    own = slice(0, size)
    logits, cache = extend(
      params,
      cache,
      token[:, own],
      position[:, own],
      tree.slot[:, own],
      tree.attends[:, own],
    )
    flat = jax.tree.map(
      lambda leaf: leaf[:, own].reshape(batch * size, *leaf.shape[2:]), standing
    )
    found = lemma.rows(
      tables,
      logits.reshape(batch * size, -1),
      flat,
      trust_model=limits.trust_model,
    )
    where = kept[:, own].ravel()
    return cache, jax.tree.map(
      lambda old, new: old.at[where].set(new, mode="drop"), rows, found
    )

  needed = tree.some.sum(1).max()
  sizes = (0, *limits.sizes)
  branch = (needed > jnp.array(sizes)).sum()
  calls = [lambda cache, rows: (cache, rows)]
  calls += [functools.partial(call, size) for size in limits.sizes]
  return jax.lax.switch(branch, calls, state.cache, state.rows)


def _weigh(limits, tables, state, draft, tree, rows) -> _Tree:
  """Weights of the new nodes, parents first."""
  del tables
  batch = len(draft.size)

  def one(nodes, settled, front_node, lanes, row, some, token):
    at = settled + jnp.arange(limits.tree, dtype=jnp.int32)
    at = jnp.where(some, at, 0)
    parent, own = nodes.parent[at], nodes.token[at]
    here = (front_node[None, :] == at[:, None]).any(1) & some
    given = lanes.weight[_lane_of(front_node, at)]
    lane = _lane_of(front_node, parent)

    def grow(k, weight):
      inner = parent[k] >= settled
      up = jnp.where(inner, parent[k] - settled, 0)
      above = jnp.where(inner, weight[up], lanes.weight[lane[k]])
      source = jnp.where(inner, row[up], lanes.row[lane[k]])
      value = jnp.where(here[k], given[k], above + token[source, own[k]])
      return weight.at[k].set(jnp.where(some[k], value, -jnp.inf))

    start = jnp.full((limits.tree,), -jnp.inf)
    return jax.lax.fori_loop(0, limits.tree, grow, start)

  weight = jax.vmap(one)(
    draft.nodes,
    state.settled,
    state.front.node,
    state.lanes,
    tree.row,
    tree.some,
    rows.token.reshape(batch, limits.kept, -1),
  )
  return tree._replace(weight=weight)


def _commit(limits, tables, controls, stops, state, draft, tree) -> State:
  """Draws again from what is exact now, and keeps what agrees."""
  batch = len(state.length)
  steps = limits.ahead + 1
  each = jnp.arange(batch)
  running = state.status == RUNNING

  # Every live start of every front: from the round's beginning, or new.
  old = jax.vmap(_lane_of)(
    state.front.node, draft.node.reshape(batch, -1)
  ).reshape(draft.node.shape)
  there = draft.node != NONE
  new = draft.node - state.settled[:, None, None]
  fresh = there & (new >= 0)
  new = jnp.clip(new, 0, limits.tree - 1)

  def pick(values, index):
    return jax.vmap(lambda values, index: values[index])(values, index)

  weight = jnp.where(
    fresh, pick(tree.weight, new), pick(state.lanes.weight, old)
  )
  weight = jnp.where(there, weight, -jnp.inf)
  row = jnp.where(fresh, pick(tree.row, new), pick(state.lanes.row, old))
  asked = jnp.where(
    fresh & (jnp.arange(steps)[None] <= draft.size[:, None])[:, :, None],
    row,
    NONE,
  )
  terms = _next_bytes(limits, tables, state.rows, asked, draft.place)
  terms = jnp.where(fresh[..., None], terms, draft.terms)
  total = _logsumexp(weight[..., None] + terms, 2)
  total = total.at[:, 0].set(
    _with_ending(state, total[:, 0], jnp.zeros(batch, jnp.int32))
  )
  norm = _logsumexp(total, 2)
  logprobs = total - norm[:, :, None]
  at = jnp.broadcast_to(jnp.arange(steps)[None], (batch, steps))
  drawn = jax.vmap(
    lambda at, logprobs: _draw(controls, state, at, logprobs),
    in_axes=1,
    out_axes=1,
  )(at, logprobs)

  # The first that differs from the draft, or ends something, is the last.
  drafted = jnp.concatenate(
    [draft.byte, jnp.full((batch, 1), NONE, jnp.int32)], axis=1
  )
  agrees = (drawn == drafted) & (at < draft.size[:, None])
  text, logprob = _write(state, drawn, logprobs)
  stopping = _stops(stops, text, state.length, steps)
  halts = stopping | ~agrees
  last = halts.argmax(1)
  byte = drawn[each, last]
  ended = byte == EOS
  impossible = jnp.isneginf(norm[each, last]) | jnp.isnan(norm[each, last])
  length = state.length + last + ~(ended | impossible)

  # The last byte's nodes are born, to be evaluated in the next round.
  count = draft.count[each, last]
  before = covers.Front(
    node=draft.node[each, last],
    place=draft.place[each, last],
    overflow=jnp.zeros(batch, bool),
  )
  goes = running & ~ended & ~impossible
  nodes, front = jax.vmap(
    functools.partial(covers.advance, tables, limits.capacity)
  )(draft.nodes._replace(count=count), before, byte, goes)
  lanes = jax.vmap(functools.partial(_lanes, limits))(
    nodes,
    front,
    before.node,
    count,
    state.settled,
    state.lanes,
    tree,
    weight[each, last],
    row[each, last],
    old[each, last],
    total[each, last, jnp.minimum(byte, EOS)],
    state.rows.token.reshape(batch, limits.kept, -1),
  )
  deepest = state.offset + jnp.where(
    front.node == NONE, 0, jnp.take_along_axis(nodes.depth, front.node, axis=1)
  ).max(1)
  status = jnp.select(
    [
      ~running,
      impossible,
      ended,
      stopping[each, last],
      length >= state.limit,
      deepest + limits.tree >= limits.context_length,
    ],
    [state.status, IMPOSSIBLE, ENDED, STOPPED, FULL, CONTEXT],
    RUNNING,
  ).astype(jnp.int32)
  # What does not fit is done again, with more room; a lack of slots can be
  # seen coming.
  overflow = (goes & (status == RUNNING) & front.overflow).any()
  live = _in_use(front, lanes)
  short = (running & (live + 2 * limits.tree > limits.slots)).any()
  in_use = _in_use(state.front, state.lanes) + tree.some.sum(1)
  after = State(
    nodes=nodes,
    front=front,
    path=_write_path(draft.path, state.read + last, front, goes),
    lanes=lanes,
    settled=jnp.where(running, count, state.settled),
    offset=state.offset,
    read=state.read + jnp.where(goes, last + 1, 0),
    rows=None,
    cache=None,
    ending=jnp.where(length > 0, -jnp.inf, state.ending),
    text=text,
    logprob=logprob,
    length=jnp.where(running, length, state.length),
    limit=state.limit,
    key=state.key,
    status=status,
    calls=state.calls + tree.some.any(1),
    peak=jnp.maximum(state.peak, jnp.where(running, in_use, 0)),
    crowded=short,
  )
  before = state._replace(rows=None, cache=None, crowded=jnp.bool_(True))
  after = jax.tree.map(
    lambda old, new: jnp.where(overflow, old, new), before, after
  )
  return after._replace(rows=state.rows, cache=state.cache)


def _in_use(front, lanes):
  """How many slots the live starts and their ancestors take."""
  live = (front.node != NONE)[:, :, None]
  return (lanes.attends & live).any(1).sum(1)


def _lanes(
  limits, nodes, front, before, count, settled, lanes, tree, weight, row, old,
  grown, token,
) -> Lanes:  # fmt: skip
  """What is known of the live starts after the committed bytes."""
  newborn = (front.node >= count) & (front.node != NONE)
  node = jnp.where(newborn, nodes.parent[front.node], front.node)
  lane = _lane_of(before, node)
  index = jnp.clip(node - settled, 0, limits.tree - 1)
  inner = node >= settled
  attends = jnp.where(
    inner[:, None], tree.attends[index], lanes.attends[old[lane]]
  )
  value = token[row[lane], nodes.token[front.node]]
  weight = weight[lane] - grown + jnp.where(newborn, value, 0.0)
  there = front.node != NONE
  return Lanes(
    weight=jnp.where(there, weight, -jnp.inf),
    row=jnp.where(there & ~newborn, row[lane], NONE),
    attends=attends & there[:, None],
  )


def _write(state, drawn, logprobs):
  """Writes all drawn bytes; what is too much is written over later."""
  batch, steps = drawn.shape
  each = jnp.arange(batch)[:, None]
  at = state.length[:, None] + jnp.arange(steps)[None]
  running = (state.status == RUNNING)[:, None]
  place = jnp.where(running & (drawn != EOS), at, state.text.shape[1])
  value = jnp.take_along_axis(logprobs, drawn[:, :, None], axis=2)[:, :, 0]
  text = state.text.at[each, place].set(drawn.astype(jnp.uint8), mode="drop")
  place = jnp.where(running, at, state.logprob.shape[1])
  return text, state.logprob.at[each, place].set(value, mode="drop")


def _stops(stops, text, length, steps):
  """Whether a stop string ends at each drawn byte, `bool[B, D + 1]`."""
  wanted, size = stops
  count, longest = wanted.shape
  if not count:
    return jnp.zeros((len(text), steps), bool)
  back = jnp.arange(longest) - longest + 1
  at = length[:, None, None] + jnp.arange(steps)[None, :, None]
  at = at + back[None, None]
  found = jax.vmap(lambda text, at: text[at])(text, jnp.maximum(at, 0))
  inside = (at >= 0)[:, :, None]
  needed = back[None, :] > -size[:, None]
  same = (found[:, :, None] == wanted[None, None]) & inside
  return (same | ~needed[None, None]).all(3).any(2)


def _logsumexp(values: Any, axis: int):
  """Log of the sum of exponentials; -inf where all are -inf."""
  top = values.max(axis)
  safe = jnp.where(jnp.isneginf(top), 0.0, top)
  total = jnp.exp(values - jnp.expand_dims(safe, axis)).sum(axis)
  return jnp.where(jnp.isneginf(top), -jnp.inf, safe + jnp.log(total))
