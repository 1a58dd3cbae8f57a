"""Device: EleutherAI's harness over a byte-level model.

  python -m experiments.lm_eval --model=smollm2-135m --tasks=piqa,lambada_openai

The harness's own tasks have their data on the hub; tasks in files of one's own
(`--include_path`) may have it in local files, as those in configs/lm_eval have.
See `experiments/_harness.py` for what differs from its other models. With
`--use_cache` a run that was stopped goes on where it was.
"""

import difflib
import json
import os
import pathlib

from absl import flags

import byteprob
from byteprob import hub
from experiments import _runtime

_MODEL = flags.DEFINE_string(
  "model", hub.DEFAULT, "A model's name or path; or several, with + between."
)
_STRATEGY = flags.DEFINE_string(
  "strategy", "mixture", "Of several models; see byteprob.Ensemble."
)
_WEIGHTS = flags.DEFINE_string(
  "weights", "", "Of several models, with + between; equal by default."
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "See byteprob.load."
)
_TASKS = flags.DEFINE_list("tasks", None, "Tasks, with commas.", required=True)
_INCLUDE_PATH = flags.DEFINE_string(
  "include_path", None, "A directory with files of more tasks."
)
_LIMIT = flags.DEFINE_float(
  "limit", None, "Only so many examples of a task, or below 1, this share."
)
_NUM_FEWSHOT = flags.DEFINE_integer(
  "num_fewshot", None, "Examples before each; by default a task's own.", 0
)
_MAX_LENGTH = flags.DEFINE_integer(
  "max_length", None, "Tokens of a text at most; the model's context.", 1
)
_WINDOW = flags.DEFINE_integer(
  "window", None, "Score whole texts in parts of so many bytes."
)
_STRIDE = flags.DEFINE_integer(
  "stride", None, "Bytes scored of each window; half of it."
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 8, "Texts drawn greedily side by side.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random numbers.")
_USE_CACHE = flags.DEFINE_string(
  "use_cache", None, "Keep the model's answers at PATH_rank0.db, and use them."
)
_LOG_SAMPLES = flags.DEFINE_bool(
  "log_samples", False, "Write every example and answer to --output, too."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")


def find_tasks(names: list[str], include_path: str | None):
  """Makes the harness's `TaskManager`, which finds the tasks.

  Raises:
    ByteprobError: there is no such task.
  """
  from lm_eval import tasks

  if include_path is not None:
    if not pathlib.Path(include_path).is_dir():
      raise byteprob.ByteprobError(f"{include_path} is no directory")
    # It takes long to read the thousands of tasks that the harness has.
    manager = tasks.TaskManager(
      include_path=include_path, include_defaults=False
    )
    if set(names) <= set(manager.all_tasks):
      return manager
  manager = tasks.TaskManager(include_path=include_path)
  for name in names:
    if name not in manager.all_tasks:
      like = difflib.get_close_matches(name, manager.all_tasks)
      raise byteprob.ByteprobError(
        f"there is no task {name!r}"
        + (f"; there is {', '.join(like)}" if like else "")
        + " (lm_eval ls tasks lists all; give the directory of your own with"
        " --include_path)"
      )
  return manager


def run() -> None:
  """Does what the flags say."""
  try:
    import lm_eval
  except ModuleNotFoundError as error:
    raise byteprob.ByteprobError(
      f'{error.name} is not installed: pip install -e ".[eval]"'
    ) from None
  from lm_eval import utils

  from experiments import _harness

  limit = _LIMIT.value
  if limit is not None and limit <= 0:
    raise byteprob.ByteprobError(f"--limit must be above 0, not {limit}")
  manager = find_tasks(_TASKS.value, _INCLUDE_PATH.value)
  model = {
    "model": _MODEL.value,
    "strategy": _STRATEGY.value,
    "weights": _WEIGHTS.value,
    "dtype": _DTYPE.value,
    "max_length": _MAX_LENGTH.value,
    "window": _WINDOW.value,
    "stride": _STRIDE.value,
    "batch_size": _BATCH_SIZE.value,
    "seed": _SEED.value,
  }
  found = lm_eval.simple_evaluate(
    _harness.ByteprobLM(**model),
    tasks=_TASKS.value,
    num_fewshot=_NUM_FEWSHOT.value,
    limit=limit,
    use_cache=_USE_CACHE.value,
    log_samples=_LOG_SAMPLES.value,
    task_manager=manager,
  )
  for kind in ("results", "groups"):
    if found.get(kind):
      print(utils.make_table(found, kind))
  if _OUTPUT.value:
    kept = ("results", "groups", "n-shot", "n-samples", "versions", "samples")
    results = {name: found[name] for name in kept if name in found}
    results = json.dumps(results, default=utils.handle_non_serializable)
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {
        **model,
        "model": "+".join(map(os.path.basename, _MODEL.value.split("+"))),
        "lm_eval": found["lm_eval_version"],
        "limit": limit,
        **json.loads(results),
        "environment": _runtime.public_environment(),
      },
    )


if __name__ == "__main__":
  _runtime.main(run, ValueError)
