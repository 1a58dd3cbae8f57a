"""Host: a study without a model, slow enough to be killed; see job_test.py."""

import time

import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import _plots, _study


def get_config() -> ConfigDict:
  """The configuration."""
  return ConfigDict({"count": 8, "seconds": 0.0})


def begin(config):
  """Nothing to load."""

  def one(example: str) -> _study.Record:
    time.sleep(config.seconds)
    return {"square": int(jnp.square(int(example)))}

  return one


def draw(summary: _study.Summary):
  """A figure."""
  figure, axis = _plots.pyplot().subplots()
  axis.plot(summary["squares"])
  return {"squares": figure}


STUDY = _study.Study(
  examples=lambda config: [str(k) for k in range(config.count)],
  begin=begin,
  summarize=lambda config, records: {
    "squares": [record["square"] for record in records]
  },
  report=lambda summary: f"{len(summary['squares'])} squares",
  draw=draw,
)

if __name__ == "__main__":
  _study.main(__file__, STUDY)
