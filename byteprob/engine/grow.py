"""Host: more room for what has not fitted; rare, and compiles anew."""

import dataclasses

import jax
import jax.numpy as jnp

from byteprob.engine.config import WORD
from byteprob.engine.frontier import Frontier
from byteprob.engine.generate import FRONTIER, SLOTS, LoopConfig, State
from byteprob.engine.state import MemberState
from byteprob.rules.common import NONE


def grow(config: LoopConfig, state: State) -> tuple[LoopConfig, State]:
  """Four times the cache's slots, or twice the frontier, as `State.needs` says.

  Args:
    config: what the state was made with.
    state: texts of which some did not fit.
  """
  needs = int(state.needs)
  sizes, members = [], []
  for size, member in zip(config.members, state.members, strict=True):
    if needs & SLOTS:
      size, member = grow_slots(size, member)
    if needs & FRONTIER:
      size, member = grow_frontier(size, member)
    sizes.append(size)
    members.append(member)
  return (
    dataclasses.replace(config, members=tuple(sizes)),
    state._replace(members=tuple(members), needs=jnp.int32(0)),
  )


def grow_slots(size, member: MemberState):
  """A member with four times the slots."""
  more = 3 * size.capacity

  def pad(leaf, axis, count):
    return _pad(leaf, axis, count, 0)

  member = member._replace(
    attends=pad(member.attends, 2, more // WORD),
    slot_token=pad(member.slot_token, 1, more),
    slot_position=pad(member.slot_position, 1, more),
    cache=jax.tree.map(lambda leaf: pad(leaf, 1, more), member.cache),
  )
  return dataclasses.replace(size, capacity=size.capacity + more), member


def grow_frontier(size, member: MemberState):
  """A member with twice the frontier entries, and states of each."""
  width, states = size.max_frontier, size.max_states
  frontier: Frontier = member.frontier

  def wider(leaf, fill=NONE):
    return _pad(leaf, 1, width, fill)

  def deeper(leaf):
    return _pad(wider(leaf), 2, states, NONE)

  # Each array of a rule has the entries first, and the states after them.
  law = jax.tree.map(deeper, frontier.law)
  rule_state = jax.tree.map(deeper, frontier.rule_state)
  if hasattr(rule_state, "place"):
    # Rivals: entries once more, last.
    rule_state = type(rule_state)(
      *(_pad(leaf, 3, width, NONE) for leaf in rule_state)
    )
  member = member._replace(
    frontier=Frontier(
      **{
        name: wider(getattr(frontier, name))
        for name in ("node", "trie_node", "parent", "token")
      },
      end=wider(frontier.end, 0),
      depth=wider(frontier.depth, 0),
      states=deeper(frontier.states),
      forms=wider(frontier.forms),
      law=law,
      rule_state=rule_state,
    ),
    logprob=wider(member.logprob, -jnp.inf),
    evaluated=wider(member.evaluated, False),
    attends=wider(member.attends, 0),
    rows=jax.tree.map(lambda leaf: wider(leaf, -jnp.inf), member.rows),
  )
  size = dataclasses.replace(
    size,
    max_frontier=2 * width,
    max_states=2 * states,
    chunk_nodes=max(size.chunk_nodes, 2 * width),
  )
  return size, member


def _pad(leaf, axis, count, fill):
  more = [(0, 0)] * leaf.ndim
  more[axis] = (0, count)
  return jnp.pad(leaf, more, constant_values=fill)
