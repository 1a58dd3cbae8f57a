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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import byteprob
from byteprob import infill, sampling
from byteprob.prompt import Bare
from experiments import (
  _infill_summary,
  _infill_tasks,
  _runtime,
  _sandbox,
  _study,
  _timing,
  _tokenwise,
)

_EXECUTE = flags.DEFINE_bool(
  "execute", False, "Run the programs that come out, each in a sandbox."
)

SCORE = _infill_summary.SCORE

BACK = {"token": 0, "healing": 1, "alignment": 3}
"""How many tokens of the prefix are spelled anew."""

Spelling = Mapping[int, bytes]


_read = functools.cache(_infill_tasks.read)


def tasks(config) -> dict[str, list[_infill_tasks.Task]]:
  """The tasks by their kinds.

  Raises:
    ByteprobError: a line of the data is broken, or no middle is so short.
    OSError: they cannot be read.
  """
  found: dict[str, list[_infill_tasks.Task]] = {}
  for source in config.data.split(","):
    for task in _read(source, config.tasks, config.longest):
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


def batches(config, own: Sequence[Any], each: int) -> list[Sequence[Any]]:
  """Tasks in parts that are done at once, where each takes so many texts."""
  size = max(config.batch // each, 1)
  return [own[first : first + size] for first in range(0, len(own), size)]


def examples(config) -> list[str]:
  """Kinds of tasks, orders, what is done, by which way, and which batch."""
  found = []
  for (kind, own), order in itertools.product(
    tasks(config).items(), config.orders
  ):
    stages = [(SCORE, "all", 1)]
    stages += [
      (setting, method, samples(config, setting))
      for setting in config.draw
      for method in methods(config, order)
    ]
    found += [
      f"{kind}|{order}|{setting}|{method}|{number}"
      for setting, method, each in stages
      for number in range(len(batches(config, own, each)))
    ]
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
  if config.execute:
    # Where it cannot, let it be known now.
    _sandbox.run("pass", limits)
  family = family_of(config)
  lm = byteprob.load(config.model, config.dtype, mesh=_runtime.mesh())
  lm.infiller(family)
  by_kind = tasks(config)

  @functools.cache
  def passes(program: str) -> bool:
    return _sandbox.run(program, limits).passed

  def one(example: str) -> _study.Record:
    kind, order, setting, method, number = example.split("|")
    each = 1 if setting == SCORE else samples(config, setting)
    own = batches(config, by_kind[kind], each)[int(number)]
    if setting == SCORE:
      return scored(lm, family, own, order, methods(config, order))
    pairs = [(task.prefix, task.suffix) for task in own for _ in range(each)]
    size = max(config.batch // each, 1) * each
    # Always as many, so that one size is compiled.
    full = min(size, len(by_kind[kind]) * each)
    filled = pairs + pairs[:1] * (full - len(pairs))
    with _timing.loops_timed() as timed:
      drawn = lm.infill_batch(
        filled,
        keys(config.seed, int(number) * size, full, each),
        config.max_bytes,
        method=method,
        order=order,
        family=family,
        **config.settings[setting].to_dict(),
      )
    seconds = sum(timed.seconds) * len(pairs) / full
    rows = [drawn[k : k + each] for k in range(0, len(pairs), each)]
    return {
      **told(own, rows, passes if config.execute else None),
      "seconds": None if timed.compiled else seconds,
    }

  return one


def keys(seed: int, first: int, count: int, each: int) -> jax.Array:
  """The random keys of samples, `each` of a task: `key[count]`.

  They depend on the numbers of task and sample alone, not on batches.
  """

  def of(number):
    task = jax.random.fold_in(jax.random.key(seed), number // each)
    return jax.random.fold_in(task, number % each)

  return jax.vmap(of)(first + jnp.arange(count))


def told(
  own: Sequence[_infill_tasks.Task],
  drawn: Sequence[Sequence[sampling.Sample | sampling.TokenSample]],
  passes: Callable[[str], bool] | None,
) -> _study.Record:
  """Results of drawn middles, each a list by task and sample.

  Args:
    own: the tasks.
    drawn: the samples of each.
    passes: tells whether a program runs to its end; None to run no programs.
  """

  def each(measure: Callable[..., Any]) -> list[list[Any]]:
    return [
      [
        measure(task, sample, sample.text.decode("utf-8", "replace"))
        for sample in row
      ]
      for task, row in zip(own, drawn, strict=True)
    ]

  found = {
    "texts": each(lambda task, sample, text: text),
    "exact": each(
      lambda task, sample, text: int(
        sample.reason == "end" and text == task.middle
      )
    ),
    "similarity": each(
      lambda task, sample, text: similarity(task.middle, text)
    ),
    "reasons": each(lambda task, sample, text: sample.reason),
    "calls": each(lambda task, sample, text: sample.calls),
    "bytes": each(lambda task, sample, text: len(sample.text)),
  }
  if passes:
    found["passed"] = each(
      lambda task, sample, text: int(passes(task.program(text)))
    )
  return found


def similarity(one: str, other: str) -> float:
  """Edit similarity of two texts: 0 to 1.

  Twice the characters of their matching blocks over all characters, as in
  CodeXGLUE (Lu et al., 2021).
  """
  matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
  return matcher.ratio()


def inside(
  lm: byteprob.ByteLM, spelling: Spelling, task: _infill_tasks.Task
) -> bool:
  """Whether the whole program has a token across the middle's beginning."""
  text = (task.prefix + task.middle + task.suffix).encode()
  sizes = [len(spelling.get(id_, b"")) for id_ in lm.encode(text)]
  # A tokenizer may put a space before the text.
  ends = np.cumsum([0, *sizes]) - (sum(sizes) - len(text))
  at = len(task.prefix.encode())
  return bool(at) and at not in ends


def scored(
  lm: byteprob.ByteLM,
  family: str | infill.Family | None,
  own: Sequence[_infill_tasks.Task],
  order: str,
  ways: Sequence[str],
) -> _study.Record:
  """Cost of the true middles, each with its end, by each way, in nats.

  "byte" is exact. "token" takes the prompt's own tokens as given and masks
  nothing. "healing" and "alignment" are the same, except that the last one or
  three tokens of the prefix may be spelled in any way (when they sample, they
  choose less well). "cover" draws from the distribution of "byte", so it has
  no cost of its own.
  """
  form, exact = lm.infiller(family)
  trusting = byteprob.ByteLM(exact.model, exact.tables, "trust_model")
  spelling = _tokenwise.spelling(lm.tables)
  contexts = [form.context(task.prefix, task.suffix, order) for task in own]
  middles = [task.middle for task in own]
  nats = {"byte": costs(exact, contexts, middles)}
  encoded = [lm.encode(context) for context in contexts]
  for way in ways:
    if way not in BACK:
      continue
    asked = []
    for context, ids in zip(contexts, encoded, strict=True):
      # The prefix's tokens, where nothing stands between it and the middle.
      first = len(ids) - ids[::-1].index(form.middle)
      kept = max(len(ids) - BACK[way], first)
      rest = b"".join(spelling[id_] for id_ in ids[kept:])
      asked.append([*ids[:kept], Bare(rest)] if ids[first:] else context)
    nats[way] = costs(trusting, asked, middles)
  return {
    "problems": [task.problem for task in own],
    "inside": [inside(lm, spelling, task) for task in own],
    "nats": nats,
  }


def costs(
  lm: byteprob.ByteLM, contexts: Sequence[Any], middles: Sequence[str]
) -> list[float]:
  """Minus log-probs of middles and of the end after each, in nats."""
  found = []
  for middle, rows in zip(
    middles, lm.next_byte_logprobs_along_batch(middles, contexts), strict=True
  ):
    symbols = [*middle.encode(), byteprob.EOS]
    values = rows[np.arange(len(symbols)), symbols]
    found.append(-float(values.sum(dtype=np.float64)))
  return found


STUDY = _study.Study(
  examples=examples,
  begin=begin,
  summarize=_infill_summary.summarize,
  report=_infill_summary.report,
  draw=_infill_summary.draw,
)

if __name__ == "__main__":
  _study.main("configs/infilling.py", STUDY, ValueError, recorded=[_EXECUTE])
