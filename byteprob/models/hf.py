"""Host: Hugging Face checkpoints, from files alone, without torch."""

import collections
import dataclasses
import functools
import inspect
import json
import os
import pathlib
import reprlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy  # noqa: F401  # Teaches NumPy bfloat16, for safetensors.
import numpy as np
import safetensors
from jax.sharding import Mesh

from byteprob import errors
from byteprob.models import (
  assemble,
  fields,
  hf_config,
  hf_defaults,
  hf_names,
)
from byteprob.models.assemble import Dtype, Rule, Source
from byteprob.models.config import DecoderConfig
from byteprob.models.fields import Fields
from byteprob.models.info import CheckpointInfo
from byteprob.types import Params

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = ("F32", "F16", "BF16")
# config.json and the index are small; a wrong file may be anything.
_MOST_JSON_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
  """One value of `model_type`.

  Attributes:
    config_class: the class in transformers that has the defaults.
    read: from the fields of config.json to a config.
    rules: from tensor names to parameters.
    ignored: further keys that do not change the logits.
  """

  config_class: str
  read: Callable[[Fields], DecoderConfig]
  rules: tuple[Rule, ...]
  ignored: frozenset[str] = frozenset()


_FAMILIES: Mapping[str, _Family] = {
  "gpt2": _Family(
    config_class="GPT2Config", read=hf_config.gpt2, rules=hf_names.GPT2
  ),
  "llama": _Family(
    config_class="LlamaConfig", read=hf_config.llama, rules=hf_names.LLAMA
  ),
  "mistral": _Family(
    config_class="MistralConfig", read=hf_config.mistral, rules=hf_names.LLAMA
  ),
  "qwen2": _Family(
    config_class="Qwen2Config", read=hf_config.qwen2, rules=hf_names.LLAMA
  ),
  "qwen3": _Family(
    config_class="Qwen3Config", read=hf_config.qwen3, rules=hf_names.QWEN3
  ),
  "gemma3_text": _Family(
    config_class="Gemma3TextConfig",
    read=hf_config.gemma3,
    rules=hf_names.GEMMA3,
  ),
  # With pictures: of its parts, only the text model is read.
  "gemma3": _Family(
    config_class="Gemma3TextConfig",
    read=hf_config.gemma3,
    rules=hf_names.GEMMA3_MULTIMODAL,
  ),
  "starcoder2": _Family(
    config_class="Starcoder2Config",
    read=hf_config.starcoder2,
    rules=hf_names.STARCODER2,
    # Written by hand into the published files; no code reads it.
    ignored=frozenset({"activation_function"}),
  ),
}
_AROUND_GEMMA3_TEXT = frozenset(
  {"text_config", "vision_config", "mm_tokens_per_image"}
  | {f"{n}_token_{i}" for n in ("boi", "eoi", "image") for i in ("id", "index")}
)


def load_hf(
  directory: str | os.PathLike[str],
  dtype: Dtype = "float32",
  mesh: Mesh | None = None,
) -> tuple[DecoderConfig, Params]:
  """Reads a model from `config.json` and safetensors files.

  Families, by `model_type`: gpt2, llama, mistral, qwen2, qwen3, gemma3_text,
  gemma3 (its text model), starcoder2. Keys of `config.json` that are not
  understood are refused unless they have the value that is transformers'
  default or are known not to change the logits.

  Args:
    directory: as `save_pretrained` writes it or the hub serves it.
    dtype: of the parameters; those of norms are always float32.
    mesh: see `assemble.assemble`.

  Returns:
    The config, and parameters for `byteprob.models.extend`.

  Raises:
    CheckpointError: something is missing, broken, or does not fit; the
      message lists all that was found.
    MeshError: the mesh cannot split the model.
  """
  assemble.check_dtype(dtype)
  directory = pathlib.Path(directory)
  raw = _read_json(directory / "config.json")
  problems: list[str] = []
  family, config = _read_config(directory, raw, problems)
  sources = _open_tensors(directory)
  params = assemble.assemble(
    config,
    sources,
    family.rules,
    dtype,
    where=directory,
    problems=problems,
    mesh=mesh,
  )
  return config, params


def read_hf_config(path: str | os.PathLike[str]) -> DecoderConfig:
  """Reads a `config.json`, or that of a directory, without any weights.

  Raises:
    CheckpointError: as `load_hf`, of the config.
  """
  path = pathlib.Path(path)
  path = path / "config.json" if path.is_dir() else path
  problems: list[str] = []
  _, config = _read_config(path.parent, _read_json(path), problems)
  fields.fail(path, problems)
  return config


def read_hf_info(directory: str | os.PathLike[str]) -> CheckpointInfo:
  """Reads what a checkpoint says about its special tokens.

  `generation_config.json` goes before `config.json`, where both have a key.

  Raises:
    CheckpointError: `config.json` is missing or one of the two is broken.
  """
  directory = pathlib.Path(directory)
  raw = _read_json(directory / "config.json")
  text = raw.get("text_config")
  said = raw | (text if isinstance(text, dict) else {})
  generation = directory / "generation_config.json"
  if generation.is_file():
    said |= {k: v for k, v in _read_json(generation).items() if v is not None}

  def ids(key):
    value = said.get(key)
    value = value if isinstance(value, list) else [value]
    return tuple(i for i in value if type(i) is int and i >= 0)

  return CheckpointInfo(
    family=str(raw.get("model_type")),
    bos_id=next(iter(ids("bos_token_id")), None),
    eos_ids=ids("eos_token_id"),
  )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise errors.CheckpointError(
      f"{path} is missing: name a directory with config.json and "
      "safetensors files, or a GGUF file"
    )
  if path.stat().st_size > _MOST_JSON_BYTES:
    raise errors.CheckpointError(f"{path} is too large for a JSON header")
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise errors.CheckpointError(
      f"{path} is not JSON ({error}); fetch it again"
    ) from error
  if not isinstance(value, dict):
    raise errors.CheckpointError(f"{path} is not a JSON object; fetch it again")
  return value


def _read_config(
  directory: pathlib.Path, raw: dict[str, Any], problems: list[str]
) -> tuple[_Family, DecoderConfig]:
  """The config; what it has too much goes to `problems`."""
  where = directory / "config.json"
  model_type = raw.get("model_type")
  family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
  if family is None:
    raise errors.CheckpointError(
      f"{where}: model_type {model_type!r} is not supported, only "
      f"{', '.join(_FAMILIES)}"
    )
  if model_type == "gemma3":
    outer = Fields(raw, hf_defaults.DEFAULTS["Gemma3Config"])
    _refuse_unread(outer, "Gemma3Config", _AROUND_GEMMA3_TEXT, problems)
    raw = raw.get("text_config")
    if not isinstance(raw, dict):
      raise errors.CheckpointError(f"{where} has no text_config")
  defaults = hf_defaults.DEFAULTS[family.config_class]
  known = Fields(raw, defaults, problems)
  config = fields.build(lambda: family.read(known), where, problems)
  _refuse_unread(known, family.config_class, family.ignored, problems)
  return family, config


def _refuse_unread(
  known: Fields,
  config_class: str,
  ignored: frozenset[str],
  problems: list[str],
) -> None:
  for key, value in known.unread():
    if value is None or key in hf_config.IGNORED or key in ignored:
      continue
    if key in hf_config.EXPECTED and value == hf_config.EXPECTED[key]:
      continue
    if key not in hf_config.EXPECTED and (
      known.is_default(key, value)
      or _is_newer_default(config_class, key, value)
    ):
      continue
    problems.append(
      f"config.json sets {key} to {reprlib.repr(value)}, which is not "
      "implemented"
    )


def _is_newer_default(config_class: str, key: str, value: Any) -> bool:
  """Whether the transformers installed here has `value` as a key's default.

  Asked of keys alone that `hf_defaults` does not have: importing it takes
  seconds.
  """
  if key in hf_defaults.DEFAULTS[config_class]:
    return False
  defaults = _defaults(config_class)
  return key in defaults and defaults[key] == value


@functools.cache
def _defaults(config_class: str) -> Mapping[str, Any]:
  """The defaults of one of transformers' config classes, as declared.

  Taken from the signature and not from an instance, where those that depend
  on others (as `head_dim` does) are filled in already.
  """
  # It would tell that it needs torch, which is not so here.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  # Here, because it takes seconds, and only this function needs it.
  import transformers

  signature = inspect.signature(getattr(transformers, config_class).__init__)
  return {
    name: parameter.default
    for name, parameter in signature.parameters.items()
    if parameter.default is not inspect.Parameter.empty
  }


def _open_tensors(directory: pathlib.Path) -> dict[str, Source]:
  """All tensors of all safetensors files, unread."""
  if (directory / _SINGLE).is_file():
    return _open_file(directory / _SINGLE)
  if not (directory / _INDEX).is_file():
    pickled = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt*"))
    if pickled:
      raise errors.CheckpointError(
        f"{directory} has only {pickled[0].name}, a pickle, which could run "
        "code when read: convert it to safetensors (save_pretrained does)"
      )
    raise errors.CheckpointError(
      f"{directory} has neither {_SINGLE} nor {_INDEX}: fetch the weights"
    )
  index = _read_json(directory / _INDEX)
  weights = index.get("weight_map")
  if not isinstance(weights, dict):
    raise errors.CheckpointError(f"{directory / _INDEX} has no weight_map")
  problems: list[str] = []
  for file in dict.fromkeys(str(file) for file in weights.values()):
    # A name and nothing else: the index may not lead out of the directory.
    if not file or file == ".." or set(file) & set("/\\\0"):
      problems.append(f"{file!r} is not the name of a file in the directory")
    elif not (directory / file).is_file():
      problems.append(f"{file} is missing: fetch it")
  fields.fail(directory / _INDEX, problems)
  sources: dict[str, Source] = {}
  for file in sorted(set(weights.values())):
    for name, source in _open_file(directory / file).items():
      if name in sources:
        problems.append(f"tensor {name} is in {file} and in another file")
      sources[name] = source
  problems.extend(
    f"tensor {name} is not in any file: fetch the files again"
    for name in weights
    if name not in sources
  )
  fields.fail(directory / _INDEX, problems)
  return sources


def _open_file(path: pathlib.Path) -> dict[str, Source]:
  """The tensors of one safetensors file, unread.

  The library checks the header's size, and every offset against the file's
  size, before it allocates anything. It does not mind a name twice.
  """
  try:
    file = safetensors.safe_open(path, framework="numpy")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    dtypes = {name: part.get_dtype() for name, part in slices.items()}
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
  except (safetensors.SafetensorError, OSError) as error:
    raise errors.CheckpointError(
      f"{path} is not a whole safetensors file ({error}); fetch it again"
    ) from error
  problems = [f"it has {n!r} twice; fetch it again" for n in _repeated(path)]
  problems += [
    f"tensor {name} is {dtype}, want {', '.join(_FLOATS)}"
    for name, dtype in dtypes.items()
    if dtype not in _FLOATS
  ]
  fields.fail(path, problems)

  def read(name):
    return np.asarray(file.get_tensor(name)).astype(np.float32, copy=False)

  def part(name, index):
    return np.asarray(slices[name][index]).astype(np.float32, copy=False)

  return {
    name: Source(
      shape=shape,
      read=functools.partial(read, name),
      part=functools.partial(part, name),
    )
    for name, shape in shapes.items()
  }


def _repeated(path: pathlib.Path) -> list[str]:
  """The keys that are twice in one object of a checked file's header."""
  twice: list[str] = []

  def note(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    twice.extend(key for key, count in counts.items() if count > 1)
    return dict(pairs)

  with path.open("rb") as file:
    (size,) = struct.unpack("<Q", file.read(8))
    json.loads(file.read(size), object_pairs_hook=note)
  return twice
