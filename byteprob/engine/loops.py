"""Device: loops that stop early, or that gradients pass through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def repeat(
  fixed: bool,
  steps: int,
  cond: Callable[[Any], jax.Array],
  body: Callable[[Any], Any],
  carry: Any,
) -> Any:
  """Repeats `body` as long as `cond` holds.

  Args:
    fixed: take `steps` steps in any case, those after the condition has
      failed in vain: reverse-mode differentiation needs to know the number.
    steps: so many at most.
    cond, body, carry: as in `jax.lax.while_loop`.
  """
  if not fixed:
    return jax.lax.while_loop(cond, body, carry)

  def step(carry, _):
    going = cond(carry)
    after = body(carry)
    return jax.tree.map(
      lambda new, old: jnp.where(going, new, old), after, carry
    ), None

  return jax.lax.scan(step, carry, length=steps)[0]
