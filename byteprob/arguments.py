"""Host: what users pass, checked and put in one form.

Each function takes an argument as it was given and returns it in the form that
the library works with, or raises one sentence that says what to give instead:
a `PromptError` for texts, a `ConstraintError` for patterns, and a `ValueError`
for the rest.
"""

import dataclasses
import difflib
import inspect
import math
import operator
import re
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from byteprob import constraints, prompt
from byteprob.constraints import Constraint
from byteprob.errors import ConstraintError, PromptError
from byteprob.prompt import Context

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Texts -----------------------------------------------------------------------


def text(value: Any, name: str = "text", why: str = "") -> bytes:
  """The bytes of one text that may hold no token ids.

  Args:
    value: bytes, a bytearray or a str.
    name: what the message calls it.
    why: why there can be no token ids, to be told with a mistake.

  Raises:
    PromptError: it is something else, or a str that is not Unicode.
  """
  if not isinstance(value, str | bytes | bytearray):
    reason = f": {why}" if why else ""
    raise PromptError(f"{name} is {_what(value)}; give bytes or str{reason}.")
  try:
    return prompt.as_bytes(value)
  except PromptError as error:
    raise PromptError(f"{name}: {error}") from error


def context(value: Any, name: str = "context") -> Context:
  """One context: its bytes, or a list of bytes and token ids.

  Whether the model has such tokens is for `prompt.pieces` to say.

  Args:
    value: bytes, a bytearray, a str, or a list (a tuple, an array) that mixes
      them with token ids.
    name: what the message calls it.

  Raises:
    PromptError: it is none of these, or a str that is not Unicode.
  """
  if isinstance(value, str | bytes | bytearray):
    return text(value, name)
  items = _listed(value)
  if items is None:
    alone = _index(value) is not None
    advice = "; put token ids in a list of their own" if alone else ""
    raise PromptError(
      f"{name} is {_what(value)}, and a context is bytes, a str, or a list of"
      f" them and token ids{advice}."
    )
  return [_item(item, f"{name}[{k}]") for k, item in enumerate(items)]


def _item(value: Any, name: str) -> bytes | int:
  """A text or a token id in a context's list."""
  if isinstance(value, str | bytes | bytearray):
    return text(value, name)
  found = _index(value)
  if found is None:
    raise PromptError(
      f"{name} is {_what(value)}, and a context's list holds bytes, str and"
      " token ids."
    )
  return found


def texts(value: Any, name: str = "contexts") -> list[Context]:
  """A batch of contexts, each as `context` returns it.

  Args:
    value: a list (a tuple, an array) of contexts.
    name: what the message calls it.

  Raises:
    PromptError: it is no list but one text, say, or holds what is no context.
  """
  if isinstance(value, str | bytes | bytearray):
    example = '["text"]' if isinstance(value, str) else '[b"text"]'
    raise PromptError(
      f"{name} is one text where many are taken; give a list, such as"
      f" {example}, or use the method for one."
    )
  items = _listed(value)
  if items is None:
    raise PromptError(
      f'{name} is {_what(value)}; give a list of texts, such as ["text"].'
    )
  return [context(item, f"{name}[{k}]") for k, item in enumerate(items)]


def pairs(
  asked: Any, contexts: Any = None
) -> tuple[list[Context], list[Context]]:
  """Texts and the contexts before them, as many of these as of those.

  Args:
    asked: the texts.
    contexts: the contexts; empty ones if None.

  Raises:
    PromptError: one of the two is no batch of texts; see `texts`.
    ValueError: there are more of the one than of the other.
  """
  found = texts(asked, "texts")
  if contexts is None:
    return found, [b""] * len(found)
  before = texts(contexts, "contexts")
  if len(before) != len(found):
    raise ValueError(
      f"give one context for each text: there are {len(found)} texts and"
      f" {len(before)} contexts"
    )
  return found, before


# What texts are drawn with ---------------------------------------------------


def stops(value: Any, name: str = "stop") -> tuple[bytes, ...]:
  r"""The strings of bytes after which a text stops.

  Args:
    value: a str (taken as UTF-8) or bytes, which is one stop string, or a list
      of these.
    name: what the message calls it.

  Raises:
    ValueError: it is something else, or one is empty.
  """
  one = isinstance(value, str | bytes | bytearray)
  items = [value] if one else _listed(value)
  if items is None:
    raise ValueError(
      f"{name} must be a str, bytes, or a list of these, not {_what(value)};"
      " an empty list stops nowhere"
    )
  found = []
  for k, item in enumerate(items):
    own = name if one else f"{name}[{k}]"
    if not isinstance(item, str | bytes | bytearray):
      raise ValueError(
        f"{own} is {_what(item)}, and a stop string is a str or bytes"
      )
    data = text(item, own)
    if not data:
      raise ValueError(
        f"{own} is empty, and a stop string must have at least one byte"
      )
    found.append(data)
  return tuple(found)


def keys(key: Any, count: int) -> jax.Array:
  """The random key of each of some texts, `key[count]`.

  Args:
    key: one key, of which text `k` has `fold_in(key, k)`; or one for each.
    count: number of texts.

  Raises:
    ValueError: it is no key of `jax.random.key`, or there are too few or too
      many.
  """
  if not isinstance(key, jax.Array):
    advice = "take one from jax.random.key, such as jax.random.key(0)"
    seed = _index(key)
    if seed is not None and 0 <= seed < 2**32:
      advice = f"for this seed write jax.random.key({seed})"
    raise ValueError(f"key is {_what(key)} and no random key; {advice}")
  if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise ValueError(
      f"key is an array of {key.dtype} and no random key; take it from"
      " jax.random.key, not PRNGKey"
    )
  if not key.ndim:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
  if key.shape != (count,):
    raise ValueError(
      f"give one key, or one for each text: {count}, not {key.shape}"
    )
  return key


def constraint(value: Any) -> Constraint | None:
  """Compiles a user's constraint to an automaton; None allows all texts.

  Args:
    value: None, a regular expression (a str, or the result of `re.compile` on
      a str without flags), or a `Constraint`.

  Raises:
    ConstraintError: it is none of these; or see `constraints.compile_regex`.
  """
  if value is None or isinstance(value, Constraint):
    return value
  source = value.pattern if isinstance(value, re.Pattern) else value
  if isinstance(source, bytes | bytearray):
    raise ConstraintError(
      "The constraint is a pattern of bytes; give it as a str, which matches"
      " texts in UTF-8."
    )
  if not isinstance(source, str):
    raise ConstraintError(
      f"The constraint is {_what(value)}; give a regular expression as a str,"
      " or what constraints.compile_regex makes of one."
    )
  if isinstance(value, re.Pattern) and _flags(source) != value.flags:
    raise ConstraintError(
      f"The pattern {source!r} was compiled with flags, which are not taken"
      " over; write them inline, such as (?i) at its beginning."
    )
  return constraints.compile_regex(source)


def _flags(pattern: str) -> int | None:
  """The flags that a pattern has without any from outside it."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      return re.compile(pattern).flags
  except (re.error, RecursionError):
    # It cannot be read at all without those flags.
    return None


# Settings --------------------------------------------------------------------


def settings(cls: type[T], given: Mapping[str, Any]) -> T:
  """An instance of a dataclass of settings, from what a user names.

  Args:
    cls: the dataclass. Its fields are int, float, bool, a `Literal` of strs,
      or the tuple of bytes that `stops` makes; it checks their ranges itself.
    given: values by name.

  Raises:
    ValueError: there is no such setting, one is missing, or a value is of the
      wrong kind or makes no sense.
  """
  names = [field.name for field in dataclasses.fields(cls) if field.init]
  for name in given:
    if name not in names:
      raise ValueError(_no_setting(str(name), names))
  for field in dataclasses.fields(cls):
    needed = field.default is field.default_factory is dataclasses.MISSING
    if field.init and needed and field.name not in given:
      raise ValueError(f"the setting {field.name!r} is missing")
  kinds = typing.get_type_hints(cls)
  values = {
    name: _setting(name, kinds[name], value) for name, value in given.items()
  }
  # What it says of a value out of its range says more than that this is no
  # finite number.
  made = cls(**values)
  for name, value in values.items():
    _check_fits(name, value)
  return made


def named(cls: type) -> Callable[[F], F]:
  """Has `help` and editors name the settings that a function takes.

  Args:
    cls: their dataclass; the function takes them as `**settings`.
  """

  def wrap(function: F) -> F:
    signature = inspect.signature(function)
    own = [
      one
      for one in signature.parameters.values()
      if one.kind is not one.VAR_KEYWORD
    ]
    more = [
      inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=field.type,
      )
      for field in dataclasses.fields(cls)
      if field.name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=own + more)
    return function

  return wrap


def share(value: Any, name: str) -> float:
  """A share below 1 as a float.

  Raises:
    ValueError: it is none.
  """
  found = _number(_plain(value))
  if found is None or not 0 <= found < 1:
    raise ValueError(f"{name} must be in [0, 1), not {_what(value)}")
  return found


def _no_setting(name: str, names: Sequence[str]) -> str:
  """Error message for an unknown setting; suggests the nearest name."""
  near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
  guess = f"; did you mean {near[0]!r}?" if near else "."
  listed = ", ".join(names)
  return f"there is no setting {name!r}{guess} The settings are {listed}"


def _setting(name: str, kind: Any, value: Any) -> Any:
  """A setting's value, as the kind that its field has."""
  if kind == tuple[bytes, ...]:
    return stops(value, name)
  value = _plain(value)
  if typing.get_origin(kind) is Literal:
    options = typing.get_args(kind)
    if not (isinstance(value, str) and value in options):
      raise ValueError(
        f"{name} must be one of {', '.join(map(repr, options))}, not"
        f" {_what(value)}"
      )
  elif kind is bool:
    if not isinstance(value, bool):
      raise ValueError(f"{name} must be True or False, not {_what(value)}")
  elif kind is int:
    if not isinstance(value, int) or isinstance(value, bool):
      raise ValueError(f"{name} must be an integer, not {_what(value)}")
    if abs(value) >= 2**31:
      raise ValueError(f"{name} must fit in 32 bits, not be {_what(value)}")
    return int(value)
  elif kind is float:
    found = _number(value)
    if found is None:
      raise ValueError(f"{name} must be a number, not {_what(value)}")
    return found
  return value


def _check_fits(name: str, value: Any) -> None:
  """Refuses a float that is another one on the device, in 32 bits."""
  if not isinstance(value, float):
    return
  limits = np.finfo(np.float32)
  if not abs(value) <= float(limits.max):
    raise ValueError(
      f"{name} must be a finite number, in float32 too, not {value}"
    )
  if 0 < abs(value) < float(limits.tiny):
    raise ValueError(
      f"{name} must not be so close to 0: {value} is 0 in float32"
    )


# Members of an ensemble ------------------------------------------------------


def positive(name: str, values: Any, count: int) -> Float[np.ndarray, " K"]:
  """Positive numbers, one for each member; 1 if they are not given.

  Raises:
    ValueError: they are not numbers above 0, or too few or too many.
  """
  if values is None:
    return np.ones(count)
  items = (
    None if isinstance(values, str | bytes | bytearray) else _listed(values)
  )
  if items is None:
    raise ValueError(
      f"{name} must be a list of numbers, one for each of the {count} members,"
      f" not {_what(values)}"
    )
  if len(items) != count:
    raise ValueError(
      f"{name} must be one for each of the {count} members, not {len(items)}"
    )
  found = [_number(_plain(item)) for item in items]
  for k, value in enumerate(found):
    if value is None:
      raise ValueError(
        f"{name}[{k}] is {_what(items[k])}, and {name} must be numbers"
      )
    if not value > 0:
      raise ValueError(
        f"{name} must be above 0, not {value}; leave out a member that should"
        " not count"
      )
    if math.isinf(value):
      raise ValueError(f"{name} must be finite, not {value}")
  return np.array(found, np.float64)


def log_positive(
  name: str, values: Any, count: int, *, normalized: bool
) -> Float[np.ndarray, " K"]:
  """Logs of `positive`; if normalized, of their shares of the sum.

  The sum is taken of logs, so that it is finite whatever the numbers are.

  Raises:
    ValueError: see `positive`.
  """
  logs = np.log(positive(name, values, count))
  return logs - np.logaddexp.reduce(logs) if normalized else logs


# Any value -------------------------------------------------------------------


def _listed(value: Any) -> list[Any] | None:
  """The items of what is like a list; None if it is not.

  Arrays of any library are. So are str and bytes: callers look for them first.
  """
  if isinstance(value, memoryview):  # as a sequence it would be of numbers
    return None
  if isinstance(value, Sequence):
    return list(value)
  if not hasattr(value, "__array__"):
    return None
  try:
    found = np.asarray(value)
  except (TypeError, ValueError, RuntimeError):  # on another device, say
    return None
  return list(found) if found.ndim else None


def _index(value: Any) -> int | None:
  """An integer of any library; None if it is none."""
  if isinstance(value, bool | np.bool_):
    return None
  try:
    return operator.index(value)
  except TypeError:
    return None


def _plain(value: Any) -> Any:
  """A scalar of NumPy or JAX as Python's own; anything else as it is."""
  if isinstance(value, np.generic | np.ndarray | jax.Array) and not value.ndim:
    try:
      return value.item()
    except (TypeError, NotImplementedError):  # a tracer, or a random key
      return value
  return value


def _number(value: Any) -> float | None:
  """A number as a float, infinite if it is too large; None if it is none."""
  if isinstance(value, bool) or not isinstance(
    value, int | float | np.floating
  ):
    return None
  try:
    return float(value)
  except OverflowError:
    return math.inf if value > 0 else -math.inf


def _what(value: Any) -> str:
  """Short description of a value, for error messages."""
  value = _plain(value)
  if isinstance(value, int) and abs(value) >= 2**64:
    return "so large a number"  # Python may refuse to write it
  if value is None or isinstance(value, bool | int | float | complex):
    return repr(value)
  if isinstance(value, str | bytes | bytearray):
    return repr(value) if len(value) <= 40 else f"{value[:40]!r} and so on"
  return f"of type {type(value).__name__}"
