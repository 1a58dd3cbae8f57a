"""Host: what the ensemble study tells of items whose answers are known."""

import json
import math
import types

import numpy as np
import pytest
from matplotlib import pyplot

import byteprob
from byteprob.ensemble import Told
from configs import ensemble as ensemble_config
from experiments import _tasks, ensemble

MODELS = ("a", "b")
STRATEGIES = ("mixture", "vote", "rank")


def told(*probabilities: float) -> np.ndarray:
  """Rows along the text `x` or `y`, of each member: its probability."""
  rows = np.full((2, 2, 257), -np.inf, np.float32)
  for k, p in enumerate(probabilities):
    rows[:, k, [ord("x"), ord("y")]] = np.log([p, 1 - p])
  return rows


def joining(rule: str):
  """Stands for an ensemble whose members say the same of every byte."""

  def join(told, text):
    p = np.exp(told.rows.astype(np.float64))
    with np.errstate(divide="ignore"):
      if rule == "vote":
        best = p.mean(1).argmax(-1)[:, None] == np.arange(257)[None]
        return np.log(best.astype(np.float64))
      return np.log(p.mean(1))

  def ask(texts, contexts):
    assert contexts == ["?"] * len(texts)
    return [Told(told(0.9, 0.3), np.zeros(2)) for _ in texts]

  return types.SimpleNamespace(ask=ask, join=join, weights=np.ones(2) / 2)


@pytest.fixture(scope="module")
def record():
  item = _tasks.Item("?", ("x", "y"), 1)
  ensembles = {name: joining(name) for name in STRATEGIES}
  return ensemble.look(MODELS, ensembles, item)


def test_what_is_said_of_an_item(record):
  assert record["bytes"] == [1, 1]
  assert record["nats"]["a"] == pytest.approx([-math.log(0.9), -math.log(0.1)])
  assert record["nats"]["mixture"] == pytest.approx(
    [-math.log(0.6), -math.log(0.4)]
  )
  # What voting forbids has no finite cost.
  assert record["nats"]["vote"] == [pytest.approx(0), None]
  assert record["hits"] == {
    "a": [1, 0], "b": [0, 1], **{key: [1, 0] for key in STRATEGIES}
  }  # fmt: skip
  for found in record["chosen"].values():
    # One vote each: the mean decides.
    assert found == {"a": 0, "b": 1, **dict.fromkeys(STRATEGIES, 0)}


def test_members_and_strategies_are_told_apart(record):
  config = ensemble_config.get_config()
  config.models = MODELS
  with config.unlocked():
    config.tasks = {"piqa": "x", "gsm8k": "y"}
    config.published = {"piqa": {"a": 68.4}}
  single = {
    key: {who: values[1:] for who, values in record[key].items()}
    for key in ("nats", "hits")
  }
  records = [{"example": f"piqa|{k}", **record} for k in range(4)]
  records += [
    {"example": f"gsm8k|{k}", "bytes": [1], "answer": 0, **single}
    for k in range(4)
  ]
  summary = ensemble.summarize(config, json.loads(json.dumps(records)))
  accuracy = summary["tasks"]["piqa"]["measures"]["accuracy, total"]
  assert accuracy["best"] == "b" and accuracy["rows"]["b"]["mean"] == 1
  assert accuracy["rows"]["mixture"]["over_best"]["mean"] == -1
  assert accuracy["rows"]["b"]["over_vote"]["mean"] == 1
  bits = summary["tasks"]["gsm8k"]["measures"]["bits a byte"]
  # Fewer are better.
  assert bits["best"] == "b"
  assert bits["rows"]["b"]["mean"] == pytest.approx(-math.log2(0.7))
  assert bits["rows"]["mixture"]["over_best"]["mean"] == pytest.approx(
    math.log2(0.7 / 0.4)
  )
  assert bits["rows"]["vote"] is None
  words = ensemble.report(summary)
  assert "published, a: 68.4" in words and "piqa, 4 items" in words
  assert set(ensemble.draw(summary)) == {"over_best"}
  pyplot.close("all")


def test_a_last_word_must_be_the_likeliest_byte_by_byte():
  hits = {"a": [3], "b": [2]}
  records = [{"bytes": [3], "nats": hits, "hits": hits}] * 2
  found = ensemble.measures("last_word", records)["accuracy"]
  assert found["a"][0] == [1.0, 1.0] and found["b"][0] == [0.0, 0.0]


def test_without_data_one_is_told_how_to_name_some():
  config = ensemble_config.get_config()
  config.tasks.code = ""
  with pytest.raises(byteprob.ByteprobError, match="with --config"):
    ensemble.examples(config)
