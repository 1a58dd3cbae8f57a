#!/usr/bin/env bash
# Runs an experiment on a TPU slice of a GKE cluster, through xpk.
#
#   launch/xpk.sh --cluster=mine --tpu_type=v5p-16 --name=bias [--dry_run] -- \
#     experiments.bias --workdir=gs://bucket/runs/bias
#
# Settings, each also from the environment (LAUNCH_CLUSTER=mine):
#   cluster    made by `xpk cluster create`; required
#   tpu_type   as v5p-16; required
#   name       of the workload, new each time; required
#   project, zone
#              default: gcloud's own
#   slices     default 1
#   restarts   how often it is started again; default 20
#   priority   very-low, low, medium, high or very-high; default medium
#   base       the image that xpk lays this directory on; default python:3.12
#   extras     of the package, to install there; default tpu,gcs
#   image      instead: an image that has all, in its working directory
#
# A slice that is pre-empted is started again, and goes on from what the
# workdir has. Needs xpk, gcloud and, without --image, Docker.
set -eu
# shellcheck source=launch/_common.sh
. "$(dirname "$0")/_common.sh"

settings="cluster tpu_type name project zone slices restarts priority"
read_settings "$settings base extras image" "$@"
need cluster tpu_type name
need_bucket
slices=${LAUNCH_SLICES:-1}
restarts=${LAUNCH_RESTARTS:-20}
need_number slices "$slices" 1
need_number restarts "$restarts" 0

where=("--cluster=$LAUNCH_CLUSTER")
[ -z "${LAUNCH_PROJECT:-}" ] || where+=("--project=$LAUNCH_PROJECT")
[ -z "${LAUNCH_ZONE:-}" ] || where+=("--zone=$LAUNCH_ZONE")
command=$(quoted python3 -m "${job[@]}" --distributed)
if [ "${LAUNCH_IMAGE:-}" ]; then
  image=("--docker-image=$LAUNCH_IMAGE")
else
  image=("--base-docker-image=${LAUNCH_BASE:-python:3.12}"
    "--script-dir=$root")
  extras=.[${LAUNCH_EXTRAS:-tpu,gcs}]
  command="pip install -q -e $(quoted "$extras") && $command"
fi
run xpk workload create "${where[@]}" "--workload=$LAUNCH_NAME" \
  "--tpu-type=$LAUNCH_TPU_TYPE" "--num-slices=$slices" \
  "--max-restarts=$restarts" "--priority=${LAUNCH_PRIORITY:-medium}" \
  "${image[@]}" "--command=$command"
note "to see how it does: $(quoted xpk workload list "${where[@]}" \
  "--filter-by-job=$LAUNCH_NAME")"
note "to end it: $(quoted xpk workload delete "${where[@]}" \
  "--workload=$LAUNCH_NAME")"
