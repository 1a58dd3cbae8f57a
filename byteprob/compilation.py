"""Host: programs that compile fast, kept on disk from one process to the next.

Nearly all of the time of a short run is XLA's compiler. What it compiles goes
to `xla/` under the cache directory (see `byteprob.store`), from where the next
process takes it. `BYTEPROB_COMPILATION_CACHE=0` turns that off. It is safe to
delete the directory.
"""

import contextlib
import functools
import gc
import hashlib
import itertools
import os
import platform
import warnings
from collections.abc import Callable
from typing import Any

import jax

from byteprob import store

_QUICK = {
  "xla_backend_optimization_level": 1,
  "xla_cpu_use_fusion_emitters": False,
}
"""Options of small programs on a CPU: two thirds of the time to compile, and
as fast. The newer emitters, which the second turns off where XLA still has
others, compile equal layers once: many layers take less time with them.
"""

_SMALL = 150
"""Arrays that a small program takes at most."""

_OFF = ("0", "false", "no", "off")
# Lines of /proc/cpuinfo; the others change with the clock or the count.
_TELLING = ("vendor_id", "model name", "flags", "Features", "CPU part")


def enable_cache() -> None:
  """Keeps what is compiled from here on, unless the user decides otherwise.

  Nothing is done where `BYTEPROB_COMPILATION_CACHE` is 0, where JAX has a
  `jax_compilation_cache_dir` already or is told to keep nothing, or, with a
  warning, where the directory cannot be written.
  """
  if os.environ.get("BYTEPROB_COMPILATION_CACHE", "1").lower() in _OFF:
    return
  if (
    jax.config.jax_compilation_cache_dir
    or not jax.config.jax_enable_compilation_cache
  ):
    return
  directory = store.cache_dir() / "xla" / _processor()
  try:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
      raise PermissionError(None, "Permission denied")
  except OSError as error:
    warnings.warn(
      f"What is compiled is not kept: {directory} cannot be written"
      f" ({error.strerror}). Set BYTEPROB_CACHE to a directory that can, or"
      " BYTEPROB_COMPILATION_CACHE to 0.",
      stacklevel=3,
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(directory))
  # A call runs many small programs: together they take as long as a large one.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
  """A name for the kind of processor that programs are compiled for.

  JAX's own key leaves it out on CPUs, and a program with instructions that
  another processor lacks would crash there; home directories are shared.
  """
  said = [platform.machine()]
  with (
    contextlib.suppress(OSError),
    open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info,
  ):
    # Of the first processor. ARM calls its flags features.
    first = itertools.takewhile(str.strip, info)
    said += [line for line in first if line.startswith(_TELLING)]
  digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
  return f"{platform.machine() or 'unknown'}-{digest[:12]}"


@contextlib.contextmanager
def _no_collection():
  """Keeps Python from looking for garbage while a program is traced.

  It would walk through all that has been imported, again and again: a sixth of
  the time to compile.
  """
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()


@functools.cache
def _quick_options() -> dict[str, Any]:
  """Those of `_QUICK` that this XLA has."""
  found = {}
  for name, value in _QUICK.items():
    options = {name: value}
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      jax.jit(lambda: 0, compiler_options=options).lower().compile()
      found |= options
  return found


class Program:
  """A function that is compiled for each kind of arguments, as by `jax.jit`.

  On a CPU the options are those that compile fast (`_QUICK`), if it takes few
  arrays.
  """

  def __init__(self, function: Callable, **how: Any):
    """Compiles nothing yet.

    Args:
      function: what is compiled.
      **how: arguments of `jax.jit`.
    """
    functools.update_wrapper(self, function)
    self._function = function
    self._how = how

  @functools.cached_property
  def _plain(self) -> Any:
    return jax.jit(self._function, **self._how)

  @functools.cached_property
  def _quick(self) -> Any:
    return jax.jit(
      self._function, compiler_options=_quick_options(), **self._how
    )

  def _jit(self, *args: Any, **kwargs: Any) -> Any:
    few = len(jax.tree.leaves((args, kwargs))) <= _SMALL
    if few and jax.default_backend() == "cpu":
      return self._quick
    return self._plain

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Runs it."""
    with _no_collection():
      return self._jit(*args, **kwargs)(*args, **kwargs)

  def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
    """See `jax.jit`."""
    return self._jit(*args, **kwargs).lower(*args, **kwargs)

  def _cache_size(self) -> int:
    """How many have been compiled."""
    return self._plain._cache_size() + self._quick._cache_size()
