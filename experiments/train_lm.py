"""Device: trains a small language model of code that can infill.

  python -m experiments.train_lm --config=configs/train_lm.py:bpe \
    --workdir=runs/bpe --export=byteprob/assets/stdlib-bpe

The data are the sources of the Python standard library, and others by flag
(`_corpus.py`, `_data.py`); the tokenizer is trained on them first
(`_tokenizers.py`). All
batches of the run are made and written to the workdir before training, in the
order of their use: step `i` reads the same rows whether the run was
interrupted or not, and a run that was killed and started again ends with the
same parameters, bit for bit, on the same machine. Rows are short at first,
when there is more to learn from many contexts than from long ones, and as
long as the model's context at the end.
"""

import contextlib
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags, logging
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

import byteprob
from byteprob import store
from byteprob.models import sharding
from experiments import (
  _corpus,
  _data,
  _export,
  _gguf,
  _lm,
  _runtime,
  _tokenizers,
)

_CONFIG, _WORKDIR = _runtime.define_flags("configs/train_lm.py")
_EXPORT = flags.DEFINE_string(
  "export",
  None,
  "Write the trained model here: a directory as Hugging Face's, or, with 8-bit"
  " weights, a file ending in .gguf.",
)
_RESULTS = flags.DEFINE_string(
  "results", None, "Write the loss curve here, as CSV and as a figure."
)
_FIGURES_ONLY = flags.DEFINE_bool(
  "figures_only", False, "Draw the figures of a run again, without a device."
)


def main() -> None:
  """Does what the flags say."""
  workdir = _runtime.Workdir(_WORKDIR.value)
  if _FIGURES_ONLY.value:
    _export.draw(workdir)
    return
  _runtime.start(workdir)
  recipe = _lm.recipe_of(_CONFIG.value)
  workdir.begin(_CONFIG.value)
  if _runtime.is_writer():
    prepare(workdir, recipe)
  multihost_utils.sync_global_devices("data")
  params = jax.device_get(train(workdir, recipe))
  summary = summarize(workdir, recipe, params)
  logging.info("%s", summary)
  if not _runtime.is_writer():
    return
  workdir.write_json("summary.json", summary)
  _export.draw(workdir)
  if _EXPORT.value:
    path = pathlib.Path(_EXPORT.value)
    export = _gguf.export if path.suffix == ".gguf" else _export.export
    export(workdir, path, recipe.model, params)
  if _RESULTS.value:
    _export.write_results(workdir, pathlib.Path(_RESULTS.value))


def prepare(workdir: _runtime.Workdir, recipe: _lm.Recipe) -> None:
  """Writes the tokenizer and all rows, unless they are there.

  `data.json` comes last: it says that the others are complete.
  """
  if (workdir / "data.json").exists():
    return
  corpus = _corpus.read_corpus(
    recipe.root, recipe.files, more=recipe.more, without=recipe.without
  )
  logging.info("corpus: %s", corpus.describe())
  path = workdir / "tokenizer.json"
  if not path.exists():
    train_tokenizer = _tokenizers.TRAINERS[recipe.tokenizer]
    with store.atomic_path(path) as part:
      train_tokenizer(corpus.train, recipe.vocab_size).save(str(part))
  # Read back, so that a run that resumes has the same one.
  tokenizer = _data.load_tokenizer(path)
  markers = _tokenizers.markers(tokenizer)
  for i in range(len(recipe.stages)):
    rows = _rows(path, corpus.train, recipe, i)
    _save_rows(workdir / f"rows-{i}.npy", rows)
  context = recipe.full.context
  valid = _data.in_order(tokenizer, markers, corpus.valid, context=context)
  _save_rows(workdir / "valid.npy", valid)
  valid_fim = _data.epoch(
    tokenizer,
    markers,
    corpus.valid,
    context=context,
    fim_share=1.0,
    joint=recipe.joint,
    sizes=recipe.full.sizes,
    rng=np.random.default_rng(recipe.seed),
  )
  _save_rows(workdir / "valid_fim.npy", valid_fim)
  workdir.write_json("data.json", corpus.describe())


def _rows(
  path: pathlib.Path, texts: Sequence[str], recipe: _lm.Recipe, stage: int
) -> np.ndarray:
  """All rows of a stage."""
  make = functools.partial(_pass, path, texts, recipe, stage)
  with contextlib.closing(_data.epochs(make, recipe.workers)) as passes:
    count = recipe.stages[stage].steps * recipe.stages[stage].batch
    return _data.take(passes, count)


def _pass(
  path: pathlib.Path,
  texts: Sequence[str],
  recipe: _lm.Recipe,
  stage: int,
  number: int,
) -> np.ndarray:
  """One pass over the texts, with its own order and splits."""
  tokenizer = _data.load_tokenizer(path)
  return _data.epoch(
    tokenizer,
    _tokenizers.markers(tokenizer),
    texts,
    context=recipe.stages[stage].context,
    fim_share=recipe.fim_share,
    joint=recipe.joint,
    sizes=recipe.stages[stage].sizes,
    rng=np.random.default_rng((recipe.seed, stage, number)),
  )


def _save_rows(path: pathlib.Path, rows: np.ndarray) -> None:
  with store.atomic_path(path) as part, part.open("wb") as file:
    np.save(file, rows)
  logging.info("%s: %d rows of %d", path.name, *rows.shape)


def _load_rows(workdir: _runtime.Workdir, name: str) -> np.ndarray:
  return np.load(workdir / f"{name}.npy", mmap_mode="r")


def train(workdir: _runtime.Workdir, recipe: _lm.Recipe) -> Any:
  """Trains to the end, from the last checkpoint if there is one.

  Returns:
    The parameters.
  """
  # Without a mesh all devices of the job hold the model, and each reads its
  # part of a batch.
  devices = jax.devices()
  mesh = _runtime.mesh(devices)
  mesh = mesh or byteprob.make_mesh({"data": len(devices)}, devices)
  sharding.check(recipe.model, mesh)
  read = _batches(workdir, recipe, NamedSharding(mesh, PartitionSpec("data")))
  valid = _load_rows(workdir, "valid")[: recipe.valid_rows]
  begin = functools.partial(_lm.init_state, recipe)
  where = sharding.of_params(recipe.model, mesh, jax.eval_shape(begin))
  begin = jax.jit(begin, out_shardings=where)
  with _checkpoints(workdir) as manager:
    if first := manager.latest_step() or 0:
      target = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        jax.eval_shape(begin),
        where,
      )
      state = manager.restore(first, args=ocp.args.StandardRestore(target))
      logging.info("resuming after step %d", first)
    else:
      state = begin()
    # What was recorded after the checkpoint comes again.
    workdir.rewind("metrics.jsonl", first)
    workdir.rewind("valid.jsonl", first)
    losses: list[jax.Array] = []
    since = time.monotonic()
    with _runtime.progress(recipe.steps, done=first, unit="step") as bar:
      for done in range(first + 1, recipe.steps + 1):
        state, loss = _lm.train_step(recipe, state, read(done - 1))
        losses.append(loss)
        # The loss of the step before: this one's would be waited for.
        bar.advance(f"loss {losses[-2:][0]:.4f}")
        record = {"step": done, "tokens": recipe.tokens_after(done)}
        if done % recipe.log_every == 0:
          record["loss"] = float(np.mean(jax.device_get(losses)))
          now = time.monotonic()
          record["seconds"] = round(now - since, 3)
          workdir.append("metrics.jsonl", record)
          losses, since = [], now
        if done % recipe.valid_every == 0:
          total, count = _lm.evaluate(recipe, state["params"], valid)
          record = {k: record[k] for k in ("step", "tokens")}
          workdir.append("valid.jsonl", {**record, "valid": total / count})
        if done % recipe.save_every == 0 or done == recipe.steps:
          manager.save(done, args=ocp.args.StandardSave(state))
  return jax.device_put(state["params"], NamedSharding(mesh, PartitionSpec()))


def _batches(
  workdir: _runtime.Workdir, recipe: _lm.Recipe, sharding: NamedSharding
) -> Callable[[int], jax.Array]:
  """A function from a step, counted from 0, to its rows `int32[B, T + 1]`."""
  rows = [_load_rows(workdir, f"rows-{i}") for i in range(len(recipe.stages))]

  def rows_of(step: int) -> np.ndarray:
    for stage, stage_rows in zip(recipe.stages, rows, strict=True):
      if step < stage.steps:
        return stage_rows[step * stage.batch : (step + 1) * stage.batch]
      step -= stage.steps
    raise IndexError("there is no such step")

  def read(step: int) -> jax.Array:
    batch = rows_of(step)
    return jax.make_array_from_callback(
      batch.shape, sharding, lambda index: batch[index]
    )

  return read


def _checkpoints(workdir: _runtime.Workdir) -> ocp.CheckpointManager:
  """The checkpoints of a run; each appears whole or not at all."""
  return ocp.CheckpointManager(
    workdir / "checkpoints",
    options=ocp.CheckpointManagerOptions(
      max_to_keep=2,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=False,
    ),
  )


def summarize(
  workdir: _runtime.Workdir, recipe: _lm.Recipe, params: Any
) -> dict[str, float | int]:
  """Losses on held-out files, with the weights rounded as for export.

  Returns:
    `parameters`: how many there are; `train`: nats per token over the last
    tenth of the training, pieces to fill in included; `valid`: nats per token
    of whole files, left to right, in rows as long as the context, none of
    which sees the row before it; `valid_bits_per_byte`: all their bits, the
    files' ends included, over all their bytes; `valid_fim`: nats per token of
    files that are all cut and written out of order.
  """
  rounded = _export.round_params(params)
  nats, count = _lm.evaluate(recipe, rounded, _load_rows(workdir, "valid"))
  fim_nats, fim_count = _lm.evaluate(
    recipe, rounded, _load_rows(workdir, "valid_fim")
  )
  size = json.loads((workdir / "data.json").read_text())["valid_bytes"]
  metrics = workdir.records("metrics.jsonl")
  last = [r["loss"] for r in metrics if r["step"] > 0.9 * recipe.steps]
  return {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "train": float(np.mean(last)),
    "valid": nats / count,
    "valid_bits_per_byte": nats / math.log(2) / size,
    "valid_fim": fim_nats / fim_count,
  }


if __name__ == "__main__":
  _runtime.main(main)
