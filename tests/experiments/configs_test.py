"""Host: configurations, and what is said of a variant that there is not."""

import importlib.util
import inspect
import pathlib

import pytest

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def get_config(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_variant_that_there_is_not_is_refused(path):
  make = get_config(path)
  assert make()
  if inspect.signature(make).parameters:
    with pytest.raises(ValueError, match=r"no variant 'tny'; there (is|are) "):
      make("tny")
