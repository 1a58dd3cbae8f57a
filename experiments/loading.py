"""Host: what it takes to load a model's weights, as they come and converted.

  python -m experiments.loading --output=results/loading/smollm2.json

Each is loaded in processes of their own, on one device and on a mesh, after
JAX and Orbax have started. The files are in the system's memory from the
conversion, so that a disk's own time is left out.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import statistics
import tempfile
import time
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

import byteprob
from byteprob import hub, mesh, models
from experiments import _runtime

_CONFIG = config_flags.DEFINE_config_file(
  "config", "configs/loading.py", "What to do.", lock_config=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Write the results here.")


def measure(path: str, dtype: str, shape: str) -> dict[str, float]:
  """Loads weights in this process, which has loaded none before.

  Args:
    path: of the model.
    dtype: of the parameters.
    shape: of the mesh; empty: no mesh.

  Returns:
    `seconds`; `params_mb`; and `peak_mb`, what the process has grown by at
    most. On a CPU that is with the parameters themselves.
  """
  import orbax.checkpoint  # noqa: F401

  where = byteprob.make_mesh(shape) if shape else None
  jax.block_until_ready(jax.numpy.zeros(1))
  before = _peak_bytes()
  begun = time.perf_counter()
  params = models.load_model(path, dtype, where).params
  jax.block_until_ready(params)
  seconds = time.perf_counter() - begun
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  return {
    "seconds": round(seconds, 3),
    "params_mb": round(size / 1e6, 1),
    "peak_mb": round((_peak_bytes() - before) / 1e6, 1),
  }


def _peak_bytes() -> int:
  # Of Linux, in KiB; `getrusage` has that of the process before, too.
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10


def in_processes(
  path: pathlib.Path, dtype: str, shape: str, repeats: int
) -> dict[str, Any]:
  """`measure` in fresh processes: the middle of each value."""
  with concurrent.futures.ProcessPoolExecutor(
    1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
  ) as pool:
    found = [
      pool.submit(measure, str(path), dtype, shape).result()
      for _ in range(repeats)
    ]
  return {key: statistics.median(one[key] for one in found) for key in found[0]}


def run() -> None:
  """Does what the flags say."""
  config = _CONFIG.value
  # Devices are the other processes'.
  jax.config.update("jax_platforms", "cpu")
  sizes = mesh.parse(config.mesh)
  # For the processes to come, where the devices are CPUs.
  count = sizes.get("data", 1) * sizes.get("model", 1)
  os.environ["JAX_NUM_CPU_DEVICES"] = str(count)
  rows: dict[str, Any] = {}
  print(f"{'':24}{'s':>8}{'MB':>8}{'peak MB':>9}")
  with tempfile.TemporaryDirectory() as directory:
    whole = hub.resolve(config.model)
    begun = time.perf_counter()
    kept = byteprob.convert(
      whole, pathlib.Path(directory) / "kept", config.dtype
    )
    converting = round(time.perf_counter() - begun, 2)
    with _runtime.progress(4, unit="way") as bar:
      for shape in ("", config.mesh):
        for form, path in (("as it comes", whole), ("converted", kept)):
          name = f"{form}, {shape or 'one device'}"
          row = in_processes(path, config.dtype, shape, config.repeats)
          rows[name] = row
          print(
            f"{name:24}{row['seconds']:8.2f}{row['params_mb']:8.1f}"
            f"{row['peak_mb']:9.1f}",
            flush=True,
          )
          bar.advance(name)
  if _OUTPUT.value:
    _runtime.write_json(
      pathlib.Path(_OUTPUT.value),
      {
        "model": config.model,
        "dtype": config.dtype,
        "repeats": config.repeats,
        "convert_seconds": converting,
        "loads": rows,
        "environment": _runtime.public_environment(),
      },
    )


if __name__ == "__main__":
  _runtime.main(run)
