"""Device: what is trained, and one step of it, as pure functions.

Losses are in nats. Parameters and the optimizer's state are float32 whatever
the products are computed in.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from byteprob.models import config as config_lib
from byteprob.models import decoder
from experiments import _data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A part of the training with rows of one length.

  Attributes:
    context: tokens that a row predicts.
    batch: rows in a step.
    steps: how many.
    sizes: characters of the shortest and longest piece to fill in.
  """

  context: int
  batch: int
  steps: int
  sizes: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """Settings of a training run; `configs/train_lm.py` explains each field."""

  seed: int
  tokenizer: str
  vocab_size: int
  root: str
  more: tuple[str, ...]
  without: str
  files: int | None
  fim_share: float
  joint: bool
  workers: int
  model: config_lib.DecoderConfig
  short: Stage
  full: Stage
  dtype: str
  learning_rate: float
  warmup: int
  weight_decay: float
  log_every: int
  valid_every: int
  valid_rows: int
  save_every: int

  @property
  def stages(self) -> tuple[Stage, Stage]:
    return self.short, self.full

  @property
  def steps(self) -> int:
    return sum(stage.steps for stage in self.stages)

  def tokens_after(self, steps: int) -> int:
    """Targets in the rows of so many steps."""
    tokens = 0
    for stage in self.stages:
      taken = min(steps, stage.steps)
      tokens += taken * stage.batch * stage.context
      steps -= taken
    return tokens


def recipe_of(config: ml_collections.ConfigDict) -> Recipe:
  """The recipe that a configuration spells out.

  Raises:
    ValueError: checkpoints would fall between two records of the metrics.
  """
  fields = dict(config.to_dict())
  for name in ("short", "full"):
    fields[name] = Stage(**fields[name])
  fields["model"] = _decoder_config(
    vocab_size=fields["vocab_size"],
    context_length=fields["full"].context,
    **fields["model"],
  )
  recipe = Recipe(**fields)
  if recipe.save_every % recipe.log_every:
    raise ValueError("save_every must be a multiple of log_every")
  return recipe


def _decoder_config(
  *, depth: int, theta: float, head_dim: int, **fields: Any
) -> config_lib.DecoderConfig:
  """A decoder such as Llama's, with tied embeddings."""
  rope = config_lib.Rope(theta=theta)
  return config_lib.DecoderConfig(
    head_dim=head_dim,
    attention_scale=head_dim**-0.5,
    layers=(config_lib.Layer(rope=rope),) * depth,
    norm_eps=1e-5,
    tied=True,
    **fields,
  )


def schedule(recipe: Recipe) -> optax.Schedule:
  """The learning rate of each step: a linear start, then a cosine to 0."""
  return optax.warmup_cosine_decay_schedule(
    0.0, recipe.learning_rate, recipe.warmup, recipe.steps
  )


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """AdamW with clipped gradients; only matrices decay."""
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      schedule(recipe),
      b1=0.9,
      b2=0.99,
      weight_decay=recipe.weight_decay,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    ),
  )


def init_state(recipe: Recipe) -> dict[str, Any]:
  """Parameters and optimizer state before the first step."""
  params = decoder.init_params(recipe.model, jax.random.key(recipe.seed))
  # As in GPT-2: what the blocks add to the residual stream sums over them.
  shrink = (2 * len(recipe.model.layers)) ** -0.5

  def scale(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    adds = path[-2].key in ("out", "down") and leaf.ndim > 1
    return leaf * shrink if adds else leaf

  params = jax.tree_util.tree_map_with_path(scale, params)
  return {"params": params, "opt": optimizer(recipe).init(params)}


def loss_sums(
  recipe: Recipe, params: Any, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Loss of rows, in nats, and the number of targets that it sums over.

  Args:
    recipe: static.
    params: the decoder's.
    rows: `int32[B, T + 1]`; `_data.PAD` is no target.
  """
  inputs, targets = rows[:, :-1], rows[:, 1:]
  counts = targets != _data.PAD
  params = decoder.cast_params(params, recipe.dtype)
  logits = decoder.forward(recipe.model, params, jnp.maximum(inputs, 0))
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.maximum(targets, 0)
  )
  return jnp.where(counts, losses, 0.0).sum(), counts.sum()


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
  recipe: Recipe, state: dict[str, Any], rows: jax.Array
) -> tuple[dict[str, Any], jax.Array]:
  """One step.

  Args:
    recipe: static.
    state: see `init_state`; its buffers are given up.
    rows: `int32[B, T + 1]`.

  Returns:
    The new state and the loss before it, in nats per token.
  """

  def mean(params: Any) -> jax.Array:
    total, count = loss_sums(recipe, params, rows)
    return total / count

  loss, grads = jax.value_and_grad(mean)(state["params"])
  updates, opt = optimizer(recipe).update(grads, state["opt"], state["params"])
  params = optax.apply_updates(state["params"], updates)
  return {"params": params, "opt": opt}, loss


_loss_sums = jax.jit(loss_sums, static_argnums=0)


def evaluate(
  recipe: Recipe, params: Any, rows: np.ndarray
) -> tuple[float, int]:
  """Total loss of rows in nats, and how many tokens it is over."""
  total, count = 0.0, 0
  for row in rows:
    nats, n = _loss_sums(recipe, params, row[None])
    total += float(nats)
    count += int(n)
  return total, count
