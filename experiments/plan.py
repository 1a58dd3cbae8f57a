"""Host: whether a model fits on a mesh, and how fast it can be, beforehand.

  python -m experiments.plan --model_config=configs/plan/llama3_70b.json \
    --mesh=data:1,model:8 --device=v5p

A v5p-16 has 8 chips. Memory and time are counted (`_budget.py`), for drawing
texts and for scoring them. The count is then held against what XLA makes of
the same model call on as many virtual devices of this machine's CPU, ahead of
time and without any weights: with one and with two layers, since each further
layer adds the same (`--layers=all` compiles them all). The compiled call is
float32, because a CPU widens bfloat16 and so takes memory that others do not.
"""

import dataclasses
import functools
import pathlib
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

import byteprob
from byteprob.mesh import describe, parse
from byteprob.models import config as config_lib
from byteprob.models import decoder, hf, sharding
from experiments import _budget, _runtime

_MODEL = flags.DEFINE_string(
  "model_config", None, "A config.json, or its directory.", required=True
)
_MESH = flags.DEFINE_string("mesh", "data:1,model:8", "See byteprob.make_mesh.")
_DEVICE = flags.DEFINE_enum(
  "device", "v5p", sorted(_budget.DEVICES), "What the mesh is made of."
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "bfloat16", ["bfloat16", "float32"], "Of parameters and cache."
)
_TEXTS = flags.DEFINE_integer("texts", 8, "Side by side.", lower_bound=1)
_SLOTS = flags.DEFINE_integer(
  "slots", 8192, "Rows of each one's cache.", lower_bound=1
)
_LAYERS = flags.DEFINE_enum(
  "layers", "two", ["two", "all", "none"], "How many to compile."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write JSON here.")

ROOM = 0.9
"""Share of a device's memory that arrays may take; the rest is XLA's."""

CALLS_PER_TOKEN = 2.07
BYTES_PER_TOKEN = 4.3
"""Of English with SmolLM2 (`experiments.throughput`)."""

DRAWN_ROWS, SCORED_ROWS = 1, 512
"""Rows of one text in a call of the sampler, and of scoring, at most."""

FEWEST_ROWS = 65
"""With fewer, a CPU multiplies in a way of its own (`decoder.product`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """XLA's figures of a compiled call, for one device.

  Attributes:
    arguments: bytes of parameters, cache and inputs.
    temporary: bytes beside them and the results.
    flops: operations.
    sums: all-reduces.
  """

  arguments: int
  temporary: int
  flops: float
  sums: int


def compile_call(
  config: config_lib.DecoderConfig, mesh: jax.sharding.Mesh, call: _budget.Call
) -> Compiled:
  """Compiles a call with abstract arrays, float32."""

  def placed(make, where):
    return jax.tree.map(
      lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
      jax.eval_shape(make),
      where,
    )

  begin = functools.partial(decoder.init_params, config, jax.random.key(0))
  params = placed(
    begin, sharding.of_params(config, mesh, jax.eval_shape(begin))
  )
  cache = placed(
    lambda: decoder.init_cache(config, call.texts, call.slots),
    sharding.of_cache(config, mesh, call.texts),
  )
  row = jax.ShapeDtypeStruct((call.texts, call.rows), jnp.int32)
  attends = jax.ShapeDtypeStruct((call.texts, call.rows, call.slots), jnp.bool_)
  made = (
    jax.jit(functools.partial(sharding.extend, config, mesh), donate_argnums=1)
    .lower(params, cache, row, row, row, attends)
    .compile()
  )
  memory = made.memory_analysis()
  return Compiled(
    arguments=memory.argument_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
    flops=made.cost_analysis()["flops"],
    sums=len(re.findall(r"= \S+ all-reduce(?:-start)?\(", made.as_text())),
  )


def compile_all(
  config: config_lib.DecoderConfig,
  mesh: jax.sharding.Mesh,
  call: _budget.Call,
  *,
  every: bool,
) -> Compiled:
  """The call of all layers: compiled, or from those of one and of two."""
  depth = len(config.layers)

  def cut(layers: int) -> Compiled:
    # Kinds of layers differ in their masks alone.
    own = dataclasses.replace(config, layers=config.layers[:layers])
    return compile_call(own, mesh, call)

  if every or depth < 3:
    return cut(depth)
  one, two = (dataclasses.asdict(cut(layers)) for layers in (1, 2))
  return Compiled(**{k: one[k] + (depth - 1) * (two[k] - one[k]) for k in one})


def fits(memory: float, device: _budget.Device) -> bool:
  """Whether arrays of so many bytes do."""
  return memory <= ROOM * device.memory


def what_would(
  config: config_lib.DecoderConfig,
  sizes: dict[str, int],
  dtype: str,
  call: _budget.Call,
) -> list[str]:
  """Flags with which the call would fit: more devices, or less work."""
  found = []
  device = _budget.DEVICES[_DEVICE.value]
  data, model = sizes["data"], sizes["model"]
  for size in range(model + 1, config.heads + 1):
    if config.heads % size or config.mlp_width % size:
      continue
    own = _budget.mesh_of(data, size)
    if fits(_budget.budget(config, own, dtype, call).memory, device):
      found.append(f"--mesh={describe((data, size))}")
      break
  same = _budget.mesh_of(data, model)
  for name in ("texts", "slots"):
    most = getattr(call, name)
    while most := most // 2:
      less = dataclasses.replace(call, **{name: most})
      if fits(_budget.budget(config, same, dtype, less).memory, device):
        found.append(f"--{name}={most}")
        break
  for name, other in _budget.DEVICES.items():
    if other.memory > device.memory and fits(
      _budget.budget(config, same, dtype, call).memory, other
    ):
      found.append(f"--device={name}")
  return found


def plan(
  config: config_lib.DecoderConfig, sizes: dict[str, int]
) -> dict[str, Any]:
  """Everything there is to say, as JSON."""
  device = _budget.DEVICES[_DEVICE.value]
  abstract = _budget.mesh_of(**sizes)
  sharding.check(config, abstract)
  given = _TEXTS.value, _SLOTS.value
  calls = {
    "drawing": _budget.Call(texts=given[0], rows=DRAWN_ROWS, slots=given[1]),
    "scoring": _budget.Call(texts=1, rows=SCORED_ROWS, slots=given[1]),
  }
  found: dict[str, Any] = {
    "parameters": _budget.count(config),
    "layers": len(config.layers),
    "mesh": describe((sizes["data"], sizes["model"])),
    "device": _DEVICE.value,
    "dtype": _DTYPE.value,
    "device_bytes": device.memory,
    "calls": {},
  }
  for name, call in calls.items():
    need = _budget.budget(config, abstract, _DTYPE.value, call)
    seconds = need.seconds(device, sizes["model"])
    least = max(seconds["memory"], seconds["products"]) + seconds["sums"]
    if name == "drawing":
      per_call = call.texts * BYTES_PER_TOKEN / CALLS_PER_TOKEN
    else:
      per_call = call.rows
    memory = need.memory
    told = {
      **dataclasses.asdict(call),
      "bytes": {
        key: getattr(need, key)
        for key in ("params", "cache", "logits", "activations")
      },
      "seconds": seconds,
      "least_seconds": least,
      "most_bytes_per_s": per_call / least,
    }
    if _LAYERS.value != "none":
      told["compiled"] = check(config, sizes, call)
      # The larger of the two counts of what a layer needs for itself.
      memory += max(0, told["compiled"]["temporary"] - need.activations)
    told["total_bytes"] = memory
    told["fits"] = fits(memory, device)
    if not told["fits"]:
      told["would_fit"] = what_would(config, sizes, _DTYPE.value, call)
    found["calls"][name] = told
  return found


def check(
  config: config_lib.DecoderConfig, sizes: dict[str, int], call: _budget.Call
) -> dict[str, Any]:
  """The count against XLA's, both in float32."""
  rows = max(call.rows, -(-FEWEST_ROWS // call.texts))
  call = dataclasses.replace(call, rows=rows)
  mesh = byteprob.make_mesh(sizes)
  begun = time.monotonic()
  every = _LAYERS.value == "all"
  made = compile_all(config, mesh, call, every=every)
  counted = _budget.budget(config, mesh, "float32", call)
  return {
    **dataclasses.asdict(made),
    "layers": len(config.layers) if every else "1 and 2, and so on",
    "counted_arguments": counted.params + counted.cache,
    "counted_temporary": counted.activations,
    "counted_flops": counted.flops,
    "counted_sums": counted.sums,
    "compile_seconds": round(time.monotonic() - begun, 1),
  }


def report(found: dict[str, Any]) -> str:
  """The plan in words."""
  gb = 1e-9
  lines = [
    f"{found['parameters'] * gb:.2f} billion parameters, {found['layers']}"
    f" layers, {found['dtype']}, on {found['mesh']} of {found['device']}"
    f" ({found['device_bytes'] * gb:.0f} GB each)"
  ]
  for name, told in found["calls"].items():
    parts = ", ".join(f"{k} {v * gb:.2f}" for k, v in told["bytes"].items())
    times = ", ".join(f"{k} {1e3 * v:.2f}" for k, v in told["seconds"].items())
    lines += [
      "",
      f"{name}: {told['texts']} texts, {told['rows']} rows a call,"
      f" {told['slots']} slots each",
      f"  GB on each device   {parts}; in all {told['total_bytes'] * gb:.2f}",
      f"  ms a call at least  {times}; in all"
      f" {1e3 * told['least_seconds']:.2f}",
      f"  bytes/s at most     {told['most_bytes_per_s']:.0f}",
    ]
    if made := told.get("compiled"):
      off = made["arguments"] / made["counted_arguments"] - 1
      lines += [
        f"  compiled (float32, layers {made['layers']},"
        f" {made['compile_seconds']} s): arguments"
        f" {made['arguments'] * gb:.2f} GB, counted"
        f" {made['counted_arguments'] * gb:.2f} ({100 * off:+.2f} %);"
        f" beside them {made['temporary'] * gb:.2f}, counted"
        f" {made['counted_temporary'] * gb:.2f};"
        f" {made['flops']:.3g} operations, counted"
        f" {made['counted_flops']:.3g}; {made['sums']} sums over devices,"
        f" counted {made['counted_sums']}",
      ]
    spare = ROOM * found["device_bytes"] - told["total_bytes"]
    if told["fits"]:
      lines.append(
        f"  it fits, with {spare * gb:.1f} GB to spare of the"
        f" {100 * ROOM:.0f} % that arrays may take"
      )
    else:
      would = " or ".join(told["would_fit"]) or "none of these devices"
      lines.append(
        f"  IT DOES NOT FIT: {-spare * gb:.1f} GB too much on each device;"
        f" what would: {would}"
      )
  return "\n".join(lines)


def run() -> None:
  """Does what the flags say."""
  sizes = {"data": 1, "model": 1, **parse(_MESH.value)}
  config = hf.read_hf_config(pathlib.Path(_MODEL.value))
  # Nothing runs on them; they are what is compiled for.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", sizes["data"] * sizes["model"])
  found = plan(config, sizes)
  print(report(found))
  if _OUTPUT.value:
    model = pathlib.Path(_MODEL.value)
    model = model.parent.name if model.name == "config.json" else model.stem
    _runtime.write_json(pathlib.Path(_OUTPUT.value), {"model": model, **found})


if __name__ == "__main__":
  _runtime.main(run)
