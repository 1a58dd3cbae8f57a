"""Device: more room for what has not fitted; rare, and compiles anew."""

import dataclasses

import jax
import jax.numpy as jnp

from byteprob.engine.config import WORD, EngineConfig
from byteprob.engine.frontier import Frontier
from byteprob.engine.needs import Needs
from byteprob.engine.state import MemberState
from byteprob.rules.common import NONE


def grown(size: EngineConfig, needs: int) -> EngineConfig:
  """Four times the cache's slots, or twice the frontier.

  Args:
    size: the sizes so far.
    needs: what has to grow, a sum of `Needs`; others do not matter.
  """
  if needs & Needs.SLOTS:
    size = dataclasses.replace(size, capacity=4 * size.capacity)
  if needs & Needs.FRONTIER:
    width = 2 * size.max_frontier
    size = dataclasses.replace(
      size,
      max_frontier=width,
      max_states=2 * size.max_states,
      chunk_nodes=max(size.chunk_nodes, 2 * width),
    )
  return size


def grow(size: EngineConfig, needs: int, member: MemberState) -> MemberState:
  """A member's state with the sizes of `grown`; pure."""
  if needs & Needs.SLOTS:
    member = _grow_slots(size, member)
  if needs & Needs.FRONTIER:
    member = _grow_frontier(size, member)
  return member


def _grow_slots(size, member):
  more = 3 * size.capacity

  def pad(leaf, axis, count):
    return _pad(leaf, axis, count, 0)

  return member._replace(
    attends=pad(member.attends, 2, more // WORD),
    cache=jax.tree.map(lambda leaf: pad(leaf, 1, more), member.cache),
  )


def _grow_frontier(size, member):
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
  return member._replace(
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


def _pad(leaf, axis, count, fill):
  more = [(0, 0)] * leaf.ndim
  more[axis] = (0, count)
  return jnp.pad(leaf, more, constant_values=fill)
