"""Host: compiled programs, kept on disk from one process to the next.

Nearly all of the time of a short run is XLA's compiler. What it compiles goes
to `xla/` under the cache directory (see `byteprob.store`), from where the next
process takes it. `BYTEPROB_COMPILATION_CACHE=0` turns that off. It is safe to
delete the directory.
"""

import contextlib
import hashlib
import itertools
import os
import platform
import warnings

import jax

from byteprob import store

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
