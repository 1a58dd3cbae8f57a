"""Device: one model call, on one waiting entry of each text."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob import lemma
from byteprob.engine.config import EngineConfig
from byteprob.engine.frontier import Frontier, live, mask_inputs
from byteprob.engine.state import (
  MemberState,
  flat,
  one_bit,
  unpack,
  used_slots,
  waiting,
)
from byteprob.numerics import logaddexp, logsumexp
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables
from byteprob.types import EOS, Params


def heaviest(member: MemberState) -> Int[Array, " B"]:
  """The likeliest waiting entry of each text; any if none waits."""
  value = jnp.where(waiting(member), member.logprob, -jnp.inf)
  return value.argmax(1).astype(jnp.int32)


def unevaluated_mass(member: MemberState) -> Float[Array, " B"]:
  """Log of what entries without a row may add to the text's probability.

  It is relative to the text, as `MemberState.logprob` is. What waits for a
  parent's row is part of the parent's.
  """
  return logsumexp(jnp.where(waiting(member), member.logprob, -jnp.inf), 1)


def known_logprobs(
  tables: Tables,
  member: MemberState,
  active: Bool[Array, " B"],
  *,
  fixed: bool = False,
) -> Float[Array, "B 257"]:
  """Log-prob of the text with each next byte, by evaluated entries alone.

  Args:
    tables: the tokenizer.
    member: the texts.
    active: texts that it is asked of; -inf for the others.
    fixed: see `lemma.next_bytes`.

  Returns:
    Lower bounds, relative to the text; exact where no entry waits.
  """
  batch, width = member.evaluated.shape
  asked = member.evaluated & live(member.frontier) & active[:, None]
  row = jnp.arange(batch * width, dtype=jnp.int32).reshape(batch, width)
  terms = lemma.next_bytes(
    tables,
    flat(member.rows),
    jnp.where(asked, row, NONE).ravel(),
    member.frontier.trie_node.ravel(),
    fixed=fixed,
  ).reshape(batch, width, 257)
  total = logsumexp(
    jnp.where(asked, member.logprob, -jnp.inf)[..., None] + terms, 1
  )
  return total.at[:, EOS].set(logaddexp(total[:, EOS], member.empty_end))


def evaluate(
  config: EngineConfig,
  tables: Tables,
  params: Params,
  member: MemberState,
  entry: Int[Array, " B"],
  wanted: Bool[Array, " B"],
) -> MemberState:
  """Calls the model on an entry of each text.

  Args:
    config: the sizes.
    tables: the tokenizer.
    params: the model's parameters.
    member: the texts.
    entry: which, of those that wait.
    wanted: texts for which it is done; there must be a free slot.
  """
  batch, width = member.evaluated.shape
  each = jnp.arange(batch)
  words = member.attends.shape[2]
  used = unpack(used_slots(member))
  slot = jnp.where(wanted, used.argmin(1), config.capacity).astype(jnp.int32)
  own: Frontier = jax.tree.map(lambda leaf: leaf[each, entry], member.frontier)
  own_token = tables.token_id[own.token]
  token = jnp.where(own.node == 0, member.root_id, own_token)
  position = member.offset + own.depth
  attends = member.attends[each, entry] | one_bit(slot, words)
  logits, cache = config.extend(
    params,
    member.cache,
    token[:, None],
    position[:, None],
    slot[:, None],
    unpack(attends)[:, None],
  )
  if config.differentiable:
    # What nobody asks for may be no number, and then its gradient is none.
    logits = jnp.where(wanted[:, None, None], logits, 0.0)
  found = lemma.rows(
    tables, logits[:, 0], mask_inputs(own), trust_model=config.trust_model
  )
  at = jnp.where(wanted, entry, width)
  rows = jax.tree.map(
    lambda old, new: old.at[each, at].set(new, mode="drop"), member.rows, found
  )

  # What has waited for this row.
  frontier = member.frontier
  waits = (frontier.parent == entry[:, None]) & (frontier.node != NONE)
  waits &= wanted[:, None]
  value = jnp.take_along_axis(found.token, jnp.maximum(frontier.token, 0), 1)
  above = member.logprob[each, entry][:, None]
  return member._replace(
    frontier=frontier._replace(parent=jnp.where(waits, NONE, frontier.parent)),
    logprob=jnp.where(waits, above + value, member.logprob),
    evaluated=member.evaluated.at[each, at].set(True, mode="drop"),
    attends=jnp.where(
      waits[:, :, None],
      attends[:, None],
      member.attends.at[each, at].set(attends, mode="drop"),
    ),
    rows=rows,
    peak=jnp.maximum(member.peak, used.sum(1) + wanted),
    cache=cache,
  )
