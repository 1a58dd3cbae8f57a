"""Device: one byte more, for what one model knows of texts."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from byteprob.engine import frontier as frontiers
from byteprob.engine.config import EngineConfig
from byteprob.engine.state import MemberState, held
from byteprob.rules.common import NONE
from byteprob.tokenization.tables import Tables


def advance(
  config: EngineConfig,
  tables: Tables,
  member: MemberState,
  byte: Int[Array, " B"],
  grown: Float[Array, " B"],
  eps: Float[Array, ""],
  going: Bool[Array, " B"],
) -> tuple[MemberState, Bool[Array, " B"]]:
  """Reads a byte of some texts, where there is room.

  Args:
    config: the sizes.
    tables: the tokenizer.
    member: the texts.
    byte: the bytes.
    grown: log-prob of the text with the byte over that without, as far as it
      is known (`evaluate.known_logprobs`); -inf if nothing is.
    eps: new nodes with a smaller share of what is known are left out.
    going: texts that read.

  Returns:
    The texts after the byte, and which of them did not fit: these are as they
    were.
  """
  frontier, births, overflow = jax.vmap(
    functools.partial(frontiers.advance, tables, config)
  )(
    member.frontier,
    member.num_nodes,
    byte,
    jax.vmap(held)(member.frontier),
    jnp.where(going, config.max_frontier, -1),
  )
  new, parent, read = births
  pick = functools.partial(jnp.take_along_axis, indices=parent, axis=1)
  above = pick(member.logprob)
  known = pick(member.evaluated)
  # What comes of a node that was left out is left out, too.
  out = jnp.isneginf(above) & (pick(member.frontier.parent) == NONE)
  each = jnp.arange(len(byte))[:, None]
  token = jnp.maximum(frontier.token, 0)
  value = jnp.where(known, above + member.rows.token[each, parent, token], 0.0)
  value = jnp.where(out, -jnp.inf, value)
  logprob = jnp.where(new, value, member.logprob)
  grown = jnp.where(read & ~jnp.isneginf(grown), grown, 0.0)
  logprob -= grown[:, None]
  settled = known | out
  light = new & settled & (logprob < jnp.log(eps))
  shed = jnp.where(light, jnp.exp(logprob), 0.0).sum(1)
  return member._replace(
    frontier=frontier._replace(
      parent=jnp.where(new & settled, NONE, frontier.parent)
    ),
    num_nodes=member.num_nodes + new.sum(1, dtype=jnp.int32),
    num_bytes=member.num_bytes + read,
    empty_end=jnp.where(read, -jnp.inf, member.empty_end),
    logprob=jnp.where(light, -jnp.inf, logprob),
    evaluated=member.evaluated & ~new,
    attends=jnp.where(
      new[:, :, None], member.attends[each, parent], member.attends
    ),
    kept=member.kept + jnp.log1p(-jnp.minimum(shed, 1.0)),
  ), overflow
