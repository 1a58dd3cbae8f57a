#!/usr/bin/env bash
# Submits an experiment to Slurm, one task a GPU.
#
#   launch/slurm.sh --nodes=2 --gpus=8 [--dry_run] -- experiments.bias \
#     --workdir=/shared/runs/bias
#
# Settings, each also from the environment (LAUNCH_NODES=2):
#   nodes      how many; required
#   gpus       of each node; default 0: one task a node, on its CPUs
#   name       of the job; default byteprob
#   time       its limit; default 24:00:00
#   partition, account
#              default: Slurm's own
#   options    further ones of sbatch, apart by spaces
#   python     default .venv/bin/python, in this directory, which all nodes see
#
# JAX asks Slurm which task it is and where the first one runs; each takes the
# GPU of its local number, so all of a node's must be visible to all its tasks
# (not --gpus-per-task). A job that is pre-empted or loses a node goes back
# into the queue, and on from what its workdir has.
set -eu
# shellcheck source=launch/_common.sh
. "$(dirname "$0")/_common.sh"

read_settings "nodes gpus name time partition account options python" "$@"
need nodes
nodes=$LAUNCH_NODES
gpus=${LAUNCH_GPUS:-0}
need_number nodes "$nodes" 1
need_number gpus "$gpus" 0

tasks=1
submit=(sbatch "--job-name=${LAUNCH_NAME:-byteprob}" "--nodes=$nodes")
if [ "$gpus" != 0 ]; then
  tasks=$gpus
  submit+=("--gpus-per-node=$gpus")
fi
submit+=("--ntasks-per-node=$tasks" "--time=${LAUNCH_TIME:-24:00:00}")
[ -z "${LAUNCH_PARTITION:-}" ] || submit+=("--partition=$LAUNCH_PARTITION")
[ -z "${LAUNCH_ACCOUNT:-}" ] || submit+=("--account=$LAUNCH_ACCOUNT")
submit+=(--requeue --open-mode=append)
# shellcheck disable=SC2206 # Apart by spaces.
[ -z "${LAUNCH_OPTIONS:-}" ] || submit+=($LAUNCH_OPTIONS)

python=${LAUNCH_PYTHON:-.venv/bin/python}
task=(srun --kill-on-bad-exit=1 "$python" -m "${job[@]}" --distributed)
run "${submit[@]}" "--chdir=$root" "--wrap=$(quoted "${task[@]}")"
