"""Host: the defaults written down here are those of transformers."""

import subprocess
import sys

import pytest

from byteprob.models import hf, hf_config, hf_defaults

_UNDERSTOOD = hf_config.IGNORED | set(hf_config.EXPECTED)
_IGNORED = {
  "Gemma3Config": hf._AROUND_GEMMA3_TEXT,
  **{family.config_class: family.ignored for family in hf._FAMILIES.values()},
}


@pytest.mark.parametrize("config_class", _IGNORED)
def test_defaults_are_those_of_transformers(config_class):
  ignored = _UNDERSTOOD | _IGNORED[config_class]
  want = {
    key: value
    for key, value in hf._defaults(config_class).items()
    if value is not None and key not in ignored
  }
  found = hf_defaults.DEFAULTS[config_class]
  assert found == want
  # True == 1, and a reader tells them apart.
  assert {k: type(v) for k, v in found.items()} == {
    k: type(v) for k, v in want.items()
  }


def test_no_reader_reads_a_key_whose_default_is_left_out():
  for family in hf._FAMILIES.values():
    defaults = hf._defaults(family.config_class)
    fields = hf.Fields({}, defaults)
    family.read(fields)
    left_out = fields._read - set(hf_defaults.DEFAULTS[family.config_class])
    assert not [key for key in left_out if defaults.get(key) is not None]


def test_the_packages_own_model_needs_no_slow_import():
  code = """
import sys
import byteprob
byteprob.load()
slow = ("gguf", "huggingface_hub", "matplotlib", "scipy", "torch", "tqdm",
        "transformers")
print(*(name for name in slow if name in sys.modules))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []
