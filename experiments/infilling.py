"""Device: programs with a span cut out, filled in by five ways of prompting.

  python -m experiments.infilling --workdir=runs/infilling --execute \
    --config.data=runs/data/HumanEval-RandomSpanInfilling.jsonl.gz

Each task is a prefix, a middle and a suffix. A model that has learned to fill
in is asked for the middle, greedily and by sampling, with the parts in the
orders of `byteprob.infill`, byte by byte and by the usual ways of prompting
with tokens. What it gives is held against the true middle (the same, or how
much of it is the same), and, with `--execute`, the whole program is run.
Beside that: the log-prob that each way gives to the true middle and its end.
All is told apart by whether the tokenizer, reading the whole program, would
put a token across the place where the middle begins.
"""

import difflib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

import byteprob
from byteprob import infill
from byteprob.prompt import Bare
from experiments import (
  _infill_summary,
  _infill_tasks,
  _runtime,
  _sandbox,
  _study,
  _tokenwise,
)

_EXECUTE = flags.DEFINE_bool(
  "execute", False, "Run the programs that come out, each in a sandbox."
)

SCORE = _infill_summary.SCORE

BACK = {"token": 0, "healing": 1, "alignment": 3}
"""How many tokens of the prompt are spelled anew."""


@functools.cache
def _read(source: str, most: int) -> tuple[_infill_tasks.Task, ...]:
  return tuple(_infill_tasks.read(source, most))


def tasks(config) -> dict[str, list[_infill_tasks.Task]]:
  """The tasks by their kinds."""
  sources = config.data
  found: dict[str, list[_infill_tasks.Task]] = {}
  for source in [sources] if isinstance(sources, str) else sources:
    for task in _read(source, config.tasks):
      found.setdefault(task.kind, []).append(task)
  return found


def methods(config, order: str) -> list[str]:
  """The ways that differ: before a token, there is nothing to heal."""
  if order == "joint_spm":
    return list(config.methods)
  return [method for method in config.methods if method in ("byte", "token")]


def samples(config, setting: str) -> int:
  """How many middles are drawn for a task."""
  greedy = config.settings[setting].get("greedy", False)
  return 1 if greedy else config.samples


def parts(config, count: int, each: int) -> int:
  """How many batches tasks make that take `each` texts."""
  return -(-count // max(config.batch // each, 1))


def examples(config) -> list[str]:
  """Kinds of tasks, orders, what is done, by which way, and which batch."""
  found = []
  for kind, own in tasks(config).items():
    for order in config.orders:
      numbers = range(parts(config, len(own), 1))
      found += [f"{kind}|{order}|{SCORE}|all|{k}" for k in numbers]
      for setting, method in itertools.product(
        config.settings, methods(config, order)
      ):
        numbers = range(parts(config, len(own), samples(config, setting)))
        found += [f"{kind}|{order}|{setting}|{method}|{k}" for k in numbers]
  return found


def family_of(config) -> str | infill.Family | None:
  """The family that a configuration names.

  Raises:
    ByteprobError: it gives some tokens and not the others.
  """
  given = {name: text for name, text in config.tokens.items() if text}
  if not given:
    return config.family or None
  end = given.pop("end", "")
  if given.keys() != {"prefix", "suffix", "middle"}:
    raise byteprob.ByteprobError(
      "config.tokens takes a prefix, a suffix and a middle"
    )
  return infill.Family(**given, ends=(end,) if end else ())


def begin(config) -> Callable[[str], _study.Record]:
  """Loads the model."""
  limits = _sandbox.Limits(**config.limits.to_dict())
  if _EXECUTE.value:
    # Where it cannot, let it be known now.
    _sandbox.run("pass", limits)
  family = family_of(config)
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())
  form, _ = lm.infiller(family)
  by_kind = tasks(config)
  ready: set[tuple[str, ...]] = set()

  @functools.cache
  def passes(program: str) -> int:
    return int(_sandbox.run(program, limits).passed)

  def one(example: str) -> _study.Record:
    kind, order, setting, method, number = example.split("|")
    each = 1 if setting == SCORE else samples(config, setting)
    size = max(config.batch // each, 1)
    own = by_kind[kind][int(number) * size :][:size]
    if setting == SCORE:
      return {
        "problems": [task.problem for task in own],
        "inside": [inside(lm, task) for task in own],
        "nats": scored(lm, form, own, order, methods(config, order)),
      }
    pairs = [(t.prefix, t.suffix) for t in own for _ in range(each)]
    # Always as many, so that one size is compiled.
    pairs += pairs[:1] * (size * each - len(pairs))
    key = jax.random.fold_in(jax.random.key(config.seed), int(number))
    begun = time.perf_counter()
    drawn = lm.infill_batch(
      pairs,
      key,
      config.max_bytes,
      method=method,
      order=order,
      family=family,
      **config.settings[setting].to_dict(),
    )
    seconds = time.perf_counter() - begun
    found = [drawn[k * each : (k + 1) * each] for k in range(len(own))]
    texts = [[s.text.decode("utf-8", "replace") for s in row] for row in found]
    # The first of its kind compiles.
    first = (order, setting, method) not in ready
    ready.add((order, setting, method))
    return {
      "texts": texts,
      "exact": _each(own, texts, lambda task, text: int(text == task.middle)),
      "similarity": _each(own, texts, similarity),
      "passed": _each(own, texts, lambda task, text: passes(task.program(text)))
      if _EXECUTE.value
      else None,
      "reasons": [[sample.reason for sample in row] for row in found],
      "calls": [[sample.calls for sample in row] for row in found],
      "bytes": [[len(sample.text) for sample in row] for row in found],
      "seconds": None if first else seconds * len(own) * each / len(pairs),
    }

  return one


def _each(own, texts, measure) -> list[list[Any]]:
  return [
    [measure(task, text) for text in row]
    for task, row in zip(own, texts, strict=True)
  ]


def similarity(task: _infill_tasks.Task, text: str) -> float:
  """How much of two texts is the same, in order: 0 to 1."""
  matcher = difflib.SequenceMatcher(None, task.middle, text, autojunk=False)
  return matcher.ratio()


def inside(lm: byteprob.ByteLM, task: _infill_tasks.Task) -> bool:
  """Whether the whole program has a token across the middle's beginning."""
  text = (task.prefix + task.middle + task.suffix).encode()
  spelling = _tokenwise.spelling(lm.tables)
  sizes = [len(spelling.get(id_, b"")) for id_ in lm.encode(text)]
  # A tokenizer may put a space before the text.
  ends = np.cumsum([0, *sizes]) - (sum(sizes) - len(text))
  at = len(task.prefix.encode())
  return bool(at) and at not in ends


def scored(
  lm: byteprob.ByteLM,
  form: infill.Format,
  own: Sequence[_infill_tasks.Task],
  order: str,
  ways: Sequence[str],
) -> dict[str, list[float]]:
  """Minus log-probs of the true middles and their ends, by each way.

  Of "token" it is what tokens after the prompt's give, unmasked; of "healing"
  and "alignment" the same with the last one or three tokens of the prefix
  spelled in any way (they themselves choose less well). A cover's texts have
  the law of "byte".
  """
  _, exact = lm.infiller(form.family)
  trusting = byteprob.ByteLM(exact.model, exact.tables, "trust_model")
  spelling = _tokenwise.spelling(lm.tables)
  contexts = [form.context(t.prefix, t.suffix, order) for t in own]
  middles = [task.middle for task in own]
  found = {"byte": minus_logs(exact, contexts, middles)}
  for way in ways:
    if way not in BACK:
      continue
    told = []
    for context in contexts:
      ids = lm.encode(context)
      # The prefix's tokens, where nothing stands between it and the middle.
      first = len(ids) - ids[::-1].index(form.middle)
      kept = max(len(ids) - BACK[way], first)
      rest = b"".join(spelling[id_] for id_ in ids[kept:])
      told.append([*ids[:kept], Bare(rest)] if ids[first:] else context)
    found[way] = minus_logs(trusting, told, middles)
  return found


def minus_logs(
  lm: byteprob.ByteLM, contexts: Sequence[Any], middles: Sequence[str]
) -> list[float]:
  """Minus log-probs of middles and of the end after each, in nats."""
  rows = lm.byte_logprobs_batch(middles, contexts)
  ends = lm.next_byte_logprobs_batch(
    [
      [*context, middle]
      for context, middle in zip(contexts, middles, strict=True)
    ]
  )
  return [
    -float(row.sum() + end[byteprob.EOS])
    for row, end in zip(rows, ends, strict=True)
  ]


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=_infill_summary.summarize,
  report=_infill_summary.report,
  draw=_infill_summary.draw,
)

if __name__ == "__main__":
  _study.main("configs/infilling.py", STUDY, ValueError)
