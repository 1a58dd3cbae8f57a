"""Host: a run that tells what it was asked for; see sweep_test.py."""

import json
import os
import pathlib
import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags


def get_config() -> ConfigDict:
  """The configuration."""
  return ConfigDict(
    {"name": "", "sizes": (1,), "on": True, "inner": {"rate": 1.0}}
  )


if __name__ == "__main__":
  config = config_flags.DEFINE_config_file("config")
  workdir = flags.DEFINE_string("workdir", None, "Where to write.")

  def main(argv: list[str]) -> None:
    """Writes its configuration."""
    print("asked for", config.value.name)
    asked = json.loads(config.value.to_json())
    found = {"argv": argv[1:], "asked": asked, "a.b": {"c": [1, {"d": 0.5}]}}
    path = pathlib.Path(workdir.value) / "summary.json"
    path.write_text(json.dumps(found))
    if config.value.name == os.environ.get("FAILS"):
      sys.exit("this one fails")

  app.run(main)
