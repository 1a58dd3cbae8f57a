"""Device: operations that the sampling loop runs for each byte.

  python -m experiments.operations --output=operations.json

Operations of the compiled program, those of a step of each of its loops, times
the steps that a real run takes. The model's own are left out: in the program
that is counted something trivial stands for it. Operations take some
microseconds each on an accelerator, whatever they do: there they are what a
byte costs beside the model.
"""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob.engine import batch
from byteprob.engine.generate import generate
from experiments import _operations, _runtime, _texts

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/operations.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")

PARTS = {
  "step": "generate.body",
  "call": "generate._once",
  "round": "generate",
}
"""Where the loops' places begin: a byte's, a model call's, what is around."""


@contextlib.contextmanager
def loops_placed(steps: collections.Counter[str] | None = None):
  """Gives each loop that is traced meanwhile its place in the program.

  Args:
    steps: counts the steps of each while the program runs; None for not.
  """
  loop, around = jax.lax.while_loop, []

  def placed(cond, body, carry):
    frame = sys._getframe(1)
    if frame.f_code.co_name == "repeat":
      frame = frame.f_back
    place = ".".join([*around, frame.f_code.co_name])

    def counted(carry):
      if steps is not None:
        jax.debug.callback(functools.partial(steps.update, [place]))
      return body(carry)

    around.append(frame.f_code.co_name)
    try:
      with jax.named_scope(_operations.scope(place)):
        return loop(cond, counted, carry)
    finally:
      around.pop()

  jax.lax.while_loop = placed
  try:
    yield
  finally:
    jax.lax.while_loop = loop


def program():
  """The loop's program, to be compiled anew."""
  return jax.jit(lambda *args: generate(*args), static_argnums=0)


@contextlib.contextmanager
def runs_counted() -> Iterator[tuple[collections.Counter[str], list[Any]]]:
  """Counts the steps of the loops while it is open.

  Yields:
    Steps by place, and what the program was called with, as shapes.
  """
  steps: collections.Counter[str] = collections.Counter()
  called: list[Any] = []
  run = program()

  def call(config, *rest):
    shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        np.shape(leaf), jax.dtypes.result_type(leaf)
      ),
      rest,
    )
    called.append((config, *shapes))
    return run(config, *rest)

  before, batch._generate = batch._generate, call
  try:
    with loops_placed(steps):
      yield steps, called
      jax.effects_barrier()
  finally:
    batch._generate = before


def operations(config, *shapes) -> collections.Counter[str]:
  """Operations of a step of each loop, by place, without the model's."""

  def nothing(params, cache, tokens, positions, slots, attends, *, size):
    del params, positions, slots, attends
    words = jnp.arange(size, dtype=jnp.float32)
    return jnp.sin(words * tokens[..., None]), cache

  members = tuple(
    dataclasses.replace(
      member, extend=functools.partial(nothing, size=_words(member, *rest))
    )
    for member, *rest in zip(
      config.members,
      shapes[1],
      [s.cache for s in shapes[4].members],
      strict=True,
    )
  )
  config = dataclasses.replace(config, members=members)
  with loops_placed():
    lowered = program().lower(config, *shapes)
  return _operations.count(lowered.compile().as_text())


def _words(member, params, cache) -> int:
  """Size of the model's vocabulary."""
  texts = cache["positions"].shape[0]
  row = jax.ShapeDtypeStruct((texts, 1), jnp.int32)
  attends = jax.ShapeDtypeStruct((texts, 1, member.capacity), jnp.bool_)
  logits, _ = jax.eval_shape(
    member.extend, params, cache, row, row, row, attends
  )
  return logits.shape[-1]


def measure(lm: byteprob.ByteLM, config, size: int) -> dict[str, Any]:
  """Operations for each byte of texts drawn side by side."""
  contexts = _texts.prompts(config.text, config.context, size)
  key = jax.random.key(config.seed)
  with runs_counted() as (steps, called):
    samples = lm.sample(
      contexts, key, config.max_bytes, temperature=config.temperature
    )
  each = operations(*called[-1])
  drawn = sum(len(sample.text) for sample in samples)
  parts = {}
  for name, prefix in PARTS.items():
    places = [place for place in each if _part(place) == name]
    run = sum(each[place] * steps[place] for place in places)
    parts[name] = {
      "operations": sum(each[place] for place in places),
      "steps": steps[prefix],
      "steps_per_byte": steps[prefix] / drawn,
      "operations_per_byte": run / drawn,
    }
  return {
    "batch": size,
    "bytes": drawn,
    "model_calls_per_byte": sum(one.calls for one in samples) / drawn,
    "operations_per_byte": sum(
      part["operations_per_byte"] for part in parts.values()
    ),
    "parts": parts,
    "loops": {
      place or "outside": {"operations": count, "steps": steps[place]}
      for place, count in sorted(each.items())
    },
  }


def _part(place: str) -> str | None:
  """The part that a loop belongs to; None for what runs once."""
  return next(
    (
      name
      for name, prefix in PARTS.items()
      if place == prefix or place.startswith(prefix + ".")
    ),
    None,
  )


def run() -> None:
  """Does what the configuration says."""
  config = _CONFIG.value
  _texts.source(config.text)
  lm = byteprob.load(config.model, config.dtype)
  cases = []
  with _runtime.progress(len(config.batches), unit="batch") as bar:
    for size in config.batches:
      found = measure(lm, config, size)
      cases.append(found)
      parts = ", ".join(
        f"{name} {part['operations']} x {part['steps_per_byte']:.2f}"
        for name, part in found["parts"].items()
      )
      print(
        f"batch {size}: {found['operations_per_byte']:.0f} operations a byte"
        f" ({parts})",
        flush=True,
      )
      bar.advance(f"batch {size}")
  if _OUTPUT.value:
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {
        "model": pathlib.Path(config.model).name,
        "cases": cases,
        "environment": _runtime.public_environment(),
      },
    )


if __name__ == "__main__":
  _runtime.main(run)
