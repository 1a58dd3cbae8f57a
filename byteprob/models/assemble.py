"""Host: a checkpoint's tensors, by rules, into a decoder's parameters."""

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from byteprob.models import decoder, fields, sharding
from byteprob.models.config import DecoderConfig
from byteprob.types import Params

Dtype = Literal["float32", "bfloat16"]

Index = tuple[slice, ...]

HEAD = "head/weight"
EMBEDDING = "embed/embedding"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """A tensor in a file, not read yet.

  Attributes:
    shape: its shape.
    read: returns it as `float32`; may be a view of a file.
    part: returns the part of it that an index says, as `float32`, without
      reading the rest; `None` if it must be read whole.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]
  part: Callable[[Index], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """Where the tensors with one form of name go, and how they change.

  Attributes:
    pattern: matches the whole name.
    targets: the parameter's path, its `{}` filled by the pattern's groups;
      several: the first axis is cut into as many equal parts; none: the
      tensor is not needed.
    transpose: `[in, out]` in the file.
    interleaved: if not 0, the rows are those of this many heads whose rotary
      pairs are neighbours, to be set half a head apart.
    add: added to every element.
  """

  pattern: str
  targets: tuple[str, ...] = ()
  transpose: bool = False
  interleaved: int = 0
  add: float = 0.0

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each part, given the tensor's."""
    if self.transpose:
      shape = shape[::-1]
    if len(self.targets) > 1 and shape:
      # A size that cannot be cut gives one that cannot be right.
      first, rest = divmod(shape[0], len(self.targets))
      shape = (-1 if rest else first, *shape[1:])
    return shape

  def apply(self, x: np.ndarray) -> list[np.ndarray]:
    """The parts, one for each target."""
    if self.interleaved:
      pairs = x.reshape(self.interleaved, -1, 2, *x.shape[1:])
      x = pairs.swapaxes(1, 2).reshape(x.shape)
    if self.transpose:
      x = x.T
    if self.add:
      x = x + np.float32(self.add)
    return np.split(x, len(self.targets))


def rules(
  table: Mapping[str, str], suffixes: Sequence[Rule], *, prefix: str = ""
) -> list[Rule]:
  """Rules for every module of `table`, one for each kind of its tensors.

  Args:
    table: patterns of modules' names to paths of modules here.
    suffixes: rules whose pattern is the end of a tensor's name and whose
      targets are the end of the parameter's path.
    prefix: pattern before each of the table's.

  Returns:
    `len(table) * len(suffixes)` rules.
  """
  return [
    dataclasses.replace(
      rule,
      pattern=prefix + module + rule.pattern,
      targets=tuple(f"{path}/{target}" for target in rule.targets),
    )
    for module, path in table.items()
    for rule in suffixes
  ]


def check_dtype(dtype: str) -> None:
  """Raises `ValueError` unless `dtype` is one that loaders give."""
  if dtype not in typing.get_args(Dtype):
    wanted = " or ".join(typing.get_args(Dtype))
    raise ValueError(f"dtype is {dtype!r}, want {wanted}")


def assemble(
  config: DecoderConfig,
  sources: Mapping[str, Source],
  table: Sequence[Rule],
  dtype: Dtype,
  *,
  where: object,
  problems: list[str],
  mesh: Mesh | None = None,
) -> Params:
  """The parameters of `config`, each filled by exactly one tensor.

  Args:
    config: the decoder.
    sources: the tensors by name.
    table: the rules; each name must match one.
    dtype: of the result, but for the norms' float32.
    where: the file or directory, for messages.
    problems: faults found so far, raised together with those found here.
    mesh: where they go. Each device's part of a tensor is read, converted and
      sent on its own, if the file's format allows it; else one tensor is in
      the host's memory at a time.

  Returns:
    The parameters, as `decoder.init_params` gives them.

  Raises:
    CheckpointError: once, with all faults: tensors that no rule maps, that
      have the wrong shape, or that compete; parameters that no tensor fills;
      a separate output matrix beside a tied embedding; numbers not finite.
    MeshError: the mesh cannot split the model.
  """
  if mesh is not None:
    sharding.check(config, mesh)
  if len(config.layers) > len(sources):
    # Nothing is built for layers that cannot be there.
    problems.append(
      f"{len(config.layers)} layers are declared, but the file has only "
      f"{len(sources)} tensors; fetch it again"
    )
    fields.fail(where, problems)
  shapes = shapes_of(config)
  plan: dict[str, Rule] = {}
  filled: dict[str, str] = {}
  for name, source in sources.items():
    rule = _match(name, table)
    if rule is None:
      problems.append(f"tensor {name} is not one that this family has")
      continue
    if not rule.targets:
      continue
    plan[name] = rule
    for path in rule.targets:
      if path in filled:
        problems.append(f"tensors {filled[path]} and {name} are the same one")
      filled[path] = name
      # A tied model's copy of its embedding is checked when it is read.
      want = shapes.get(path)
      if path == HEAD and config.tied:
        want = shapes[EMBEDDING]
      got = rule.shape(source.shape)
      if want is None:
        problems.append(f"tensor {name} has no place in the model declared")
      elif got != want:
        problems.append(
          f"tensor {name} has shape {list(source.shape)}, which gives "
          f"{list(got)} for {path}, want {list(want)}"
        )
  missing = [path for path in shapes if path not in filled]
  problems.extend(f"no tensor for the parameter {path}" for path in missing)
  fields.fail(where, problems)

  flat: dict[str, jax.Array] = {}
  for name, rule in plan.items():
    try:
      if mesh is None:
        parts = rule.apply(_checked(sources[name].read()))
        for path, part in zip(rule.targets, parts, strict=True):
          # Not jnp.asarray, which compiles a program for each shape.
          flat[path] = jax.device_put(_convert(path, part, dtype))
      else:
        flat |= _spread(config, sources[name], rule, dtype, mesh)
    except FloatingPointError:
      problems.append(f"tensor {name} has numbers that are not finite")
  fields.fail(where, problems)
  if config.tied and HEAD in flat:
    head = flat.pop(HEAD)
    if not jnp.array_equal(head, flat[EMBEDDING]):
      fields.fail(
        where,
        [
          f"the output matrix {filled[HEAD]} is declared tied to the "
          "embedding, but differs from it"
        ],
      )
  return nest(flat)


def _match(name: str, table: Sequence[Rule]) -> Rule | None:
  """The rule for `name`, with its targets filled in."""
  for rule in table:
    if match := re.fullmatch(rule.pattern, name):
      targets = tuple(t.format(*match.groups()) for t in rule.targets)
      return dataclasses.replace(rule, targets=targets)
  return None


def shapes_of(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter, by its path."""
  # Layers differ in what they compute, not in their parameters: one stands
  # for all, where tracing each would take a second in all.
  first = dataclasses.replace(config, layers=config.layers[:1])
  init = functools.partial(decoder.init_params, first)
  # The key is an outline too: to make one is to compile a program.
  key = jax.eval_shape(jax.random.key, 0)
  tree = jax.eval_shape(init, key)
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  shapes = {}
  for keys, leaf in leaves:
    module, *rest = (key.key for key in keys)
    count = len(config.layers) if module == "layer_0" else 1
    for i in range(count):
      name = f"layer_{i}" if module == "layer_0" else module
      shapes["/".join([name, *rest])] = leaf.shape
  return shapes


def _checked(x: np.ndarray) -> np.ndarray:
  """`x` itself; raises `FloatingPointError` if it has NaN or infinity."""
  # A sum is finite if all are, unless it overflows: then look at each.
  with np.errstate(over="ignore", invalid="ignore"):
    if not (np.isfinite(np.sum(x)) or np.all(np.isfinite(x))):
      raise FloatingPointError
  return x


def _convert(path: str, x: np.ndarray, dtype: Dtype) -> np.ndarray:
  kind = decoder.param_dtype(path.split("/"), jnp.dtype(dtype))
  # A copy in any case: JAX may keep the array, which may be part of a file.
  return np.array(x, dtype=kind, order="C")


def _spread(
  config: DecoderConfig, source: Source, rule: Rule, dtype: Dtype, mesh: Mesh
) -> dict[str, jax.Array]:
  """The targets of one tensor, by path, each on the devices of a mesh."""
  shape = rule.shape(source.shape)
  read = _reader(source, rule, shape)
  found = {}
  for number, path in enumerate(rule.targets):
    where = sharding.of_param(config, mesh, path, len(shape))
    # Devices with the same part are sent one copy.
    owners: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in where.addressable_devices_indices_map(shape).items():
      bounds = (s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
      owners.setdefault(tuple(bounds), []).append(device)
    arrays: list[jax.Array] = []
    for bounds, devices in owners.items():
      part = _checked(read(number, tuple(slice(*pair) for pair in bounds)))
      part = _convert(path, part, dtype)
      arrays += [jax.device_put(part, device) for device in devices]
      # Before the next part is read, this one's memory is free.
      jax.block_until_ready(arrays)
    found[path] = jax.make_array_from_single_device_arrays(shape, where, arrays)
  return found


def _reader(
  source: Source, rule: Rule, shape: tuple[int, ...]
) -> Callable[[int, Index], np.ndarray]:
  """Makes a function that reads a part of a target, by the target's number."""
  if source.part is None or rule.interleaved:
    whole = rule.apply(source.read())
    return lambda number, index: whole[number][index]
  alone = dataclasses.replace(rule, targets=rule.targets[:1])

  def read(number: int, index: Index) -> np.ndarray:
    if len(rule.targets) > 1:
      first, *rest = index
      shift = number * shape[0]
      index = (slice(first.start + shift, first.stop + shift), *rest)
    if rule.transpose:
      index = index[::-1]
    return alone.apply(source.part(index))[0]

  return read


def nest(flat: Mapping[str, Any]) -> Any:
  """A tree of what has paths, such as `layer_0/mlp/up/weight`."""
  tree: dict = {}
  for path, leaf in flat.items():
    *parents, last = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree
