"""Device: the weights of a text's nodes, and with them its bytes' log-probs.

Reading the text byte by byte, `P(x_1..x_n)` is the sum over live starts of
the node's probability times the mass of the tokens that go on with the text.
Both are kept relative to the text read so far: nothing grows with its length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from byteprob.lemma import Continuations
from byteprob.numerics import add_exactly, logsumexp
from byteprob.token_tree import NONE, ROOT, FrontierHistory, TokenTree
from byteprob.tokenization.tables import Tables


class Weights(NamedTuple):
  """Weights of a text's nodes, and log-probs of its bytes.

  Attributes:
    byte: `float32[n]` log-prob of each byte given those before it.
    node: `float32[N]` log of each node's probability over that of the text
      that it spells.
    front: `float32[W]` log of each last live start's probability over that of
      the whole text.
    total: `float32[]` log-prob of the text.
    grown: `float32[n]` log of the probability of all covers up to each byte
      over that of the covers up to the byte before. It equals `byte`, except
      with `Continuations.beyond`.
  """

  byte: Float[Array, " n"]
  node: Float[Array, " N"]
  front: Float[Array, " W"]
  total: Float[Array, ""]
  grown: Float[Array, " n"]


def marginalize(
  tables: Tables,
  nodes: TokenTree,
  path: FrontierHistory,
  length: Int[Array, ""],
  offset: Int[Array, ""],
  follow: Continuations,
  spelled: Float[Array, " N"],
) -> Weights:
  """Adds up the covers of every prefix of a text.

  Args:
    tables: the tokenizer.
    nodes: the text's nodes.
    path: its live starts.
    length: bytes of the text.
    offset: row of node 0; the other nodes' rows follow.
    follow: what the rows say of the text. If it has `beyond`, the rows are
      not masked (`trust_model`), and each byte's probability is divided by
      what all next bytes get together; else they get 1.
    spelled: log-prob that rows give to all tokens that spell bytes, and to
      the end (`lemma.TokenLogProbs.total`); matters with `beyond` only.
  """

  def weigh_now(node, state):
    """Log-weights of nodes now: since their births the text has grown."""
    since = (state.now[0] - state.birth[node, 0]) + (
      state.now[1] - state.birth[node, 1]
    )
    return jnp.where(node == NONE, -jnp.inf, state.weight[node] - since)

  def read(state, inputs):
    n, node, place = inputs
    born = place == ROOT
    valid = n <= length
    old = jnp.where(born, NONE, node)
    depth = n - nodes.end[old] - 1
    terms = follow.starts[old + offset, depth]
    grown = logsumexp(weigh_now(old, state) + terms, 0)
    byte = grown - state.alive

    parent = nodes.parent[node]
    twin = tables.twin[nodes.token[node]]
    step = follow.exact[parent + offset, n - nodes.end[parent] - 1, twin]
    fresh = weigh_now(parent, state) + step - grown
    now = add_exactly(state.now, grown)
    fresh_at = jnp.where(valid & born & (node != NONE), node, size)
    state = _State(
      now=jnp.where(valid, now, state.now),
      birth=state.birth.at[fresh_at].set(now, mode="drop"),
      weight=state.weight.at[fresh_at].set(fresh, mode="drop"),
      alive=state.alive,
    )
    if follow.beyond is not None:
      rest = follow.beyond[old + offset, depth]
      rest = jnp.where(born, spelled[node + offset], rest)
      alive = logsumexp(weigh_now(node, state) + rest, 0)
      state = state._replace(alive=jnp.where(valid, alive, state.alive))
    return state, jnp.where(valid, jnp.stack([byte, grown]), 0.0)

  size = len(nodes.token)
  state = _State(
    now=jnp.zeros(2),
    birth=jnp.zeros((size, 2)),
    weight=jnp.full((size,), -jnp.inf).at[0].set(0.0),
    alive=jnp.float32(0) if follow.beyond is None else spelled[offset],
  )
  steps = jnp.arange(1, len(path.node) + 1, dtype=jnp.int32)
  state, found = jax.lax.scan(read, state, (steps, path.node, path.place))
  root = jnp.full_like(path.node[0], NONE).at[0].set(0)
  last = jnp.where(length > 0, path.node[length - 1], root)
  return Weights(
    byte=found[:, 0],
    node=state.weight,
    front=weigh_now(last, state),
    total=state.now[0] + state.now[1],
    grown=found[:, 1],
  )


class _State(NamedTuple):
  """While reading: `now`, log-prob of the text so far in two floats; `birth`,
  what it was where each node ends, and `weight`, the node's weight then;
  `alive`, what all next bytes get together.
  """

  now: Float[Array, "2"]
  birth: Float[Array, "N 2"]
  weight: Float[Array, " N"]
  alive: Float[Array, ""]
