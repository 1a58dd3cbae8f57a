#!/usr/bin/env bash
# Runs an experiment on this machine, as one process or as several.
#
#   launch/local.sh [--processes=4] [--dry_run] -- experiments.bias \
#     --workdir=runs/bias
#
# Settings, each also from the environment (LAUNCH_PROCESSES=4):
#   processes  how many; default 1, which uses every device of the machine.
#              Several share the CPUs; a GPU cannot be shared.
#   port       where they meet; default 8476
#   python     default .venv/bin/python
#
# When one of several fails, all end; the same command goes on from there.
set -eu
# shellcheck source=launch/_common.sh
. "$(dirname "$0")/_common.sh"

read_settings "processes port python" "$@"
processes=${LAUNCH_PROCESSES:-1}
port=${LAUNCH_PORT:-8476}
python=${LAUNCH_PYTHON:-.venv/bin/python}
need_number processes "$processes" 1
need_number port "$port" 1

run cd "$root"
if [ "$processes" = 1 ]; then
  run "$python" -m "${job[@]}"
  exit
fi

pids=()
trap 'exit 130' INT
trap 'exit 143' TERM
trap '[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((index = 0; index < processes; index++)); do
  command=("$python" -m "${job[@]}" "--coordinator=localhost:$port"
    "--num_processes=$processes" "--process_id=$index")
  if [ "$dry_run" ]; then
    printf '%s &\n' "$(quoted "${command[@]}")"
  else
    printf '+ %s &\n' "$(quoted "${command[@]}")" >&2
    "${command[@]}" &
    pids+=("$!")
  fi
done
if [ "$dry_run" ]; then
  echo wait
  exit
fi
for _ in "${pids[@]}"; do
  wait -n
done
pids=()
