"""Host: what the fill-in study says, where it is known what it must say."""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import subprocess
import sys
import types

import benches
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tokenizers_zoo
from infill_test import MERGES, STARCODER, with_tokens
from matplotlib import pyplot

import byteprob
from byteprob.errors import ByteprobError, PromptError
from configs import infilling as infilling_config
from experiments import (
  _estimates,
  _infill_tasks,
  _runtime,
  _sandbox,
  _study,
  infilling,
)

ROOT = pathlib.Path(__file__).parents[2]

# Estimates -------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 7))
def test_pass_at_k_is_that_of_k_drawn_without_replacement(count):
  for passed, k in itertools.product(range(count + 1), range(1, count + 1)):
    outcomes = [1] * passed + [0] * (count - passed)
    subsets = list(itertools.combinations(outcomes, k))
    wanted = sum(map(any, subsets)) / len(subsets)
    found = _estimates.pass_at_k(count, passed, k)
    assert found == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_is_unbiased():
  chance, count, k = 0.3, 5, 3
  mean = sum(
    math.comb(count, passed)
    * chance**passed
    * (1 - chance) ** (count - passed)
    * _estimates.pass_at_k(count, passed, k)
    for passed in range(count + 1)
  )
  assert mean == pytest.approx(1 - (1 - chance) ** k)
  with pytest.raises(ValueError, match="pass@6 takes 6 samples, not 5"):
    _estimates.pass_at_k(5, 1, 6)


def test_edit_similarity():
  assert infilling.similarity("", "") == 1
  assert infilling.similarity("abcd", "xyz") == 0
  # "ab" and "d" of four and five characters.
  assert infilling.similarity("abcd", "abxyd") == pytest.approx(6 / 9)


# The summary -----------------------------------------------------------------


def drawn(example, exact, passed, seconds, size):
  """A record of middles that all have `size` bytes and take two calls."""
  return {
    "example": f"Toy|joint_spm|{example}",
    "exact": exact,
    "similarity": [[value / 2 for value in row] for row in exact],
    "passed": passed,
    "reasons": [
      ["end" if value else "max_bytes" for value in r] for r in exact
    ],
    "calls": [[2] * len(row) for row in exact],
    "bytes": [[size] * len(row) for row in exact],
    "seconds": seconds,
  }


def scores(number, problems, insides, byte, token):
  return {
    "example": f"Toy|joint_spm|score|all|{number}",
    "problems": problems,
    "inside": insides,
    "nats": {"byte": byte, "token": token},
  }


RECORDS = [
  scores(0, ["p0", "p1"], [True, False], [1.0, 2.0], [4.0, 2.5]),
  scores(1, ["p2"], [True], [3.0], [5.0]),
  drawn("sampled|byte|0", [[1, 1], [0, 0]], [[1, 0], [0, 0]], None, 4),
  drawn("sampled|byte|1", [[0, 1]], [[1, 1]], 0.5, 5),
  drawn("sampled|token|0", [[0, 0], [1, 0]], [[0, 0], [1, 0]], None, 4),
  drawn("sampled|token|1", [[0, 0]], [[0, 0]], None, 4),
]


def summary():
  config = infilling_config.get_config()
  config.ks = (1, 2, 10)
  return infilling.STUDY.summarize(config, RECORDS)


def check(found, *values):
  """A mean and its standard error over tasks of different programs."""
  assert found["count"] == len(values)
  assert found["mean"] == pytest.approx(np.mean(values))
  error = np.std(values, ddof=1) / math.sqrt(len(values)) if values[1:] else 0
  assert found["error"] == pytest.approx(error)


def test_middles_are_told_apart_by_where_they_begin():
  found = json.loads(json.dumps(summary()))["kinds"]["Toy"]
  assert (found["tasks"], found["inside"]) == (3, 2)
  nats = found["orders"]["joint_spm"]["nats"]
  check(nats["byte"]["all"], 1, 2, 3)
  check(nats["token"]["inside"], 4, 5)
  check(nats["token"]["boundary"], 2.5)
  # Fewer nats are better.
  check(nats["token"]["inside"]["byte_is_better_by"], 3, 2)
  assert "byte_is_better_by" not in nats["byte"]["all"]


def test_samples_are_averaged_and_pass_at_k_estimated():
  found = summary()["kinds"]["Toy"]["orders"]["joint_spm"]["settings"]
  told = found["sampled"]["measures"]
  # There are two samples: no pass@10.
  assert set(told) == {"exact", "similarity", "ended", "pass@1", "pass@2"}
  check(told["exact"]["byte"]["all"], 1, 0, 0.5)
  check(told["similarity"]["byte"]["all"], 0.5, 0, 0.25)
  check(told["ended"]["token"]["boundary"], 0.5)
  check(told["pass@1"]["byte"]["all"], 0.5, 0, 1)
  check(told["pass@2"]["byte"]["inside"], 1, 1)
  check(told["pass@2"]["token"]["all"], 0, 1, 0)
  # More are better.
  check(told["pass@2"]["token"]["all"]["byte_is_better_by"], 1, -1, 1)


def test_what_was_compiled_meanwhile_is_not_timed():
  found = summary()["kinds"]["Toy"]["orders"]["joint_spm"]["settings"]
  speed = found["sampled"]["speed"]
  assert speed["byte"] == {
    "calls_per_byte": pytest.approx(12 / 26),
    "bytes_per_s": pytest.approx(20),
    "seconds_per_middle": pytest.approx(0.25),
  }
  assert speed["token"]["calls_per_byte"] == pytest.approx(0.5)
  assert speed["token"]["bytes_per_s"] is None


def test_the_summary_in_words_and_figures():
  found = summary()
  # True middles alone.
  alone = infilling.STUDY.summarize(infilling_config.get_config(), RECORDS[:2])
  assert set(infilling.STUDY.draw(alone)) == {"Toy-nats"}
  (line,) = (
    line
    for line in infilling.STUDY.report(found).splitlines()
    if line.split()[:5] == ["nats", "of", "the", "middle", "token"]
  )
  # 1.96 times the standard errors.
  assert "inside 4.5 ± 1.0 (2.5 ± 1.0)" in line
  assert set(infilling.STUDY.draw(found)) == {"Toy-nats", "Toy-sampled"}
  pyplot.close("all")


# Tasks -----------------------------------------------------------------------

TOKENS = ["ab", " ab", " ab", "bb", "a"]
PREFIX = "".join(TOKENS)
ROWS = [
  (PREFIX, "b ab", "b ab"),
  ("", "ab", " a"),
  ("ab", " ab", ""),
  ("b", "", "a"),
]
"""The first middle ends a token that begins two tokens of the prefix before;
the others have empty parts.
"""


def row(number, prefix, middle, suffix):
  return {
    "task_id": f"Toy/T/{number}/1",
    "entry_point": "f",
    "prompt": prefix,
    "suffix": suffix,
    "canonical_solution": middle,
    "test": "def check(candidate):\n  pass\n",
  }


def write(path, *rows):
  lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def toys():
  return [_infill_tasks._task("", row(k, *r)) for k, r in enumerate(ROWS)]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("{", ":2: this is no JSON"),
    ({"suffix": None}, ":2: 'suffix' must be a string"),
    ({"task_id": "one"}, ":2: the task_id 'one' is not KIND/PROBLEM"),
    ("{}", ":2: 'task_id' is missing"),
  ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path, change, message):
  good = row(0, *ROWS[0])
  bad = change if isinstance(change, str) else good | change
  config = infilling_config.get_config("tiny")
  config.data = write(tmp_path / "data.jsonl", good, bad, good)
  with pytest.raises(ByteprobError) as caught:
    infilling.examples(config)
  assert str(caught.value).startswith(config.data + message)


def test_what_does_not_differ_is_not_asked_twice(tmp_path):
  config = infilling_config.get_config()
  rows = [row(k, *ROWS[0]) for k in range(5)]
  config.data = write(tmp_path / "data.jsonl", *rows)
  config.batch, config.samples = 4, 2
  found = infilling.examples(config)
  asked = [tuple(name.split("|")[1:4]) for name in found]
  assert asked.count(("psm", "greedy", "byte")) == 2
  # Two samples of each, and so two tasks at once.
  assert asked.count(("joint_spm", "sampled", "healing")) == 3
  assert ("psm", "sampled", "healing") not in asked
  assert len(found) == len(set(found))
  config.draw = ()
  assert {name.split("|")[2] for name in infilling.examples(config)} == {
    infilling.SCORE
  }


def test_middles_that_are_too_long_are_left_out(tmp_path):
  config = infilling_config.get_config()
  rows = [row(k, *ROWS[k % 4]) for k in range(8)]
  config.data = write(tmp_path / "data.jsonl", *rows)
  config.longest, config.tasks = 2, 3
  # Of "ab" and "" there are two each.
  middles = [task.middle for task in infilling.tasks(config)["Toy"]]
  assert middles == ["ab", "", "ab"]
  config.data = write(tmp_path / "long.jsonl", rows[0])
  with pytest.raises(ByteprobError, match="no middles of 2 bytes or fewer"):
    infilling.tasks(config)


def test_a_family_of_ones_own():
  config = infilling_config.get_config()
  assert infilling.family_of(config) is None
  config.family = "starcoder"
  assert infilling.family_of(config) == "starcoder"
  config.tokens.prefix = "<P>"
  with pytest.raises(ByteprobError, match="takes a prefix, a suffix and a"):
    infilling.family_of(config)
  config.tokens.suffix, config.tokens.middle = "<S>", "<M>"
  config.tokens.end = "<E>"
  found = infilling.family_of(config)
  assert found.tokens() == ("<P>", "<S>", "<M>", "<E>")


# Programs --------------------------------------------------------------------


def test_whole_programs_pass_and_broken_ones_do_not(monkeypatch):
  config = infilling_config.get_config("tiny")
  config.execute = True
  config.batch = 2
  first, second = infilling.tasks(config)["Sample"][:2]

  def infill_batch(pairs, *args, **how):
    assert pairs == [(t.prefix, t.suffix) for t in (first, second)]
    return [
      types.SimpleNamespace(text=text.encode(), reason="end", calls=3)
      for text in (first.middle, second.middle + "raise ValueError\n")
    ]

  lm = types.SimpleNamespace(
    infiller=lambda family: None, infill_batch=infill_batch
  )
  monkeypatch.setattr(byteprob, "load", lambda *args, **how: lm)
  record = infilling.begin(config)("Sample|joint_spm|greedy|byte|0")
  assert record["passed"] == [[1], [0]]
  assert record["exact"] == [[1], [0]]
  assert record["similarity"][0] == [1] > record["similarity"][1]
  # And none is run unless that is asked for.
  config.execute = False
  monkeypatch.setattr(_sandbox, "run", None)
  again = infilling.begin(config)("Sample|joint_spm|greedy|byte|0")
  assert "passed" not in again and again["texts"] == record["texts"]


def test_random_keys_do_not_depend_on_batches():
  whole = infilling.keys(3, 0, 12, 2)
  parts = [infilling.keys(3, first, 4, 2) for first in (0, 4, 8)]
  assert (jnp.concatenate(parts) == whole).all()
  assert len({*map(str, jax.random.key_data(whole))}) == 12
  assert (infilling.keys(3, 0, 6, 1) == infilling.keys(3, 0, 12, 1)[:6]).all()


def test_a_middle_that_goes_on_is_not_the_true_one():
  (task, *_) = toys()
  row = [
    types.SimpleNamespace(text=text.encode(), reason=reason, calls=1)
    for text, reason in (
      (task.middle, "end"),
      (task.middle, "max_bytes"),
      (f"{task.middle} ", "end"),
    )
  ]
  record = infilling.told([task], [row], None)
  assert record["exact"] == [[1, 0, 0]]
  assert record["bytes"] == [[4, 4, 5]]


def test_a_run_keeps_to_whether_programs_are_run(tmp_path):
  config = infilling_config.get_config("tiny")
  config.execute = True
  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.infilling",
      "--config=configs/infilling.py:tiny",
      f"--workdir={tmp_path}",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert "(they differ in execute)" in done.stderr.splitlines()[-1]


# Models ----------------------------------------------------------------------


@functools.cache
def bench():
  """StarCoder's kind, with a token that takes the prefix's last two along."""
  entry = tokenizers_zoo.byte_level(
    ("a", "b", " "), [*MERGES, ("bb", "ab")], None
  )
  special = [*STARCODER, "<|endoftext|>"]
  return benches.bench_of(
    with_tokens(entry, special, ends=["<|endoftext|>"]), seed=3
  )


@functools.cache
def toy_lm():
  # Padding hides what the token of a space spells: none stands alone here.
  return bench().byte_lm()


def truth(form, ids, before, middle, trust_model):
  """The brute force's cost of a middle after token ids and bytes."""
  one = bench()
  tokenizer = oracle.Oracle(
    one.entry.encode,
    one.entry.spelled,
    one.entry.alphabet,
    ahead=one.entry.ahead,
    ends=form.ends,
  )
  law = oracle.Reference(tokenizer, one.logits, ids, trust_model=trust_model)
  text = (before + middle).encode()
  values = law.each(text)[len(before) :]
  return -(values.sum() + law.next(text)[byteprob.EOS])


@pytest.mark.parametrize("order", ["psm", "joint_spm"])
def test_true_middles_cost_what_the_brute_force_says(order):
  lm = toy_lm()
  form, _ = lm.infiller()
  back = {"token": 0, "healing": 1, "alignment": 3}
  for k, task in enumerate(toys()):
    found = infilling.scored(lm, None, [task], order, [*back, "cover"])
    assert found["problems"] == [f"T/{k}"]
    assert found["inside"] == [k == 0]
    # What the middle goes on from.
    before = task.prefix if order == "joint_spm" else ""
    ids = lm.encode(
      form.context(task.prefix.removesuffix(before), task.suffix, order)
    )
    wanted = {"byte": truth(form, ids, before, task.middle, False)}
    tokens = TOKENS if before == PREFIX else [before] if before else []
    for way, count in back.items():
      kept = tokens[: max(len(tokens) - count, 0)]
      spelled = bench().entry.spelled
      path = [*ids, *(spelled.index(token.encode()) for token in kept)]
      rest = before.removeprefix("".join(kept))
      wanted[way] = truth(form, path, rest, task.middle, True)
    costs = {way: value for way, (value,) in found["nats"].items()}
    assert costs == pytest.approx(wanted, abs=2e-5)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(byteprob, "load", lambda *args, **how: toy_lm())
  config = infilling_config.get_config("tiny")
  rows = [row(k, *each) for k, each in enumerate(ROWS)]
  config.data = write(tmp_path / "data.jsonl", *rows)
  config.max_bytes, config.batch = 4, 1
  names = infilling.examples(config)
  assert len(names) == 12

  def begin(config):
    one = infilling.begin(config)

    def stopping(example):
      if example == names[7]:
        raise KeyboardInterrupt
      return one(example)

    return stopping

  whole, parts = (_runtime.Workdir(tmp_path / name) for name in ("a", "b"))
  _study.collect(whole, config, infilling.STUDY)
  stopped = dataclasses.replace(infilling.STUDY, begin=begin)
  with pytest.raises(KeyboardInterrupt):
    _study.collect(parts, config, stopped)
  assert list(_study.records_of(parts)) == names[:7]
  _study.collect(parts, config, infilling.STUDY)
  found = [
    [
      {key: value for key, value in record.items() if key != "seconds"}
      for record in _study.records_of(workdir).values()
    ]
    for workdir in (whole, parts)
  ]
  assert found[0] == found[1]
  assert [record["example"] for record in found[0]] == names
  _study.finish(parts, config, infilling.STUDY, str(tmp_path / "kept"))
  kept = json.loads((tmp_path / "kept.json").read_text())["summary"]
  assert kept["kinds"]["Toy"]["tasks"] == 4
  assert (tmp_path / "kept-Toy-greedy.png").is_file()
  assert (tmp_path / "kept-Toy-nats.png").is_file()


def test_a_model_that_cannot_fill_in(monkeypatch):
  one = bench()
  info = dataclasses.replace(one.tables.info, special=())
  lm = byteprob.ByteLM(one.model, dataclasses.replace(one.tables, info=info))
  monkeypatch.setattr(byteprob, "load", lambda *args, **how: lm)
  with pytest.raises(PromptError, match="no tokens to fill in the middle"):
    infilling.begin(infilling_config.get_config("tiny"))
