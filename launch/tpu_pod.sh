#!/usr/bin/env bash
# Runs an experiment on a TPU slice that it creates and deletes, with gcloud.
#
#   launch/tpu_pod.sh --name=bias --zone=us-east5-a --type=v5p-16 --spot=yes \
#     [--dry_run] -- experiments.bias --workdir=gs://bucket/runs/bias
#
# Settings, each also from the environment (LAUNCH_NAME=bias):
#   name       of the slice; required
#   zone       required
#   type       as v5p-16; required
#   project    default: gcloud's own
#   spot       yes: may be pre-empted, and costs less; default no
#   runtime    the TPU software; default by type
#   extras     of the package, to install there; default tpu,gcs
#   retries    slices after the first, when one is taken away; default 20
#   poll       seconds between two looks at the slice; default 30
#   fetch      copy the workdir to this directory at the end
#   keep       yes: do not delete the slice at the end; default no
#
# What is committed is copied to each worker, installed, and the same command
# run on all of them. When the slice is taken away, another is made and the
# command goes on from what the workdir has. Started again, this script takes
# up the slice that it left.
set -eu
# shellcheck source=launch/_common.sh
. "$(dirname "$0")/_common.sh"

settings="name zone type project spot runtime extras retries poll fetch keep"
read_settings "$settings" "$@"
need name zone type
need_bucket
retries=${LAUNCH_RETRIES:-20}
poll=${LAUNCH_POLL:-30}
need_number retries "$retries" 0
need_number poll "$poll" 0
case $LAUNCH_TYPE in
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) runtime=tpu-ubuntu2204-base ;;
esac
where=("$LAUNCH_NAME" "--zone=$LAUNCH_ZONE")
[ -z "${LAUNCH_PROJECT:-}" ] || where+=("--project=$LAUNCH_PROJECT")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
state=("${queue[@]}" describe "${where[@]}" '--format=value(state.state)')
node_state=("${vm[@]}" describe "${where[@]}" '--format=value(state)')

create() {
  local spot=()
  [ "${LAUNCH_SPOT:-no}" = no ] || spot=(--spot)
  run "${queue[@]}" create "${where[@]}" "--node-id=$LAUNCH_NAME" \
    "--accelerator-type=$LAUNCH_TYPE" \
    "--runtime-version=${LAUNCH_RUNTIME:-$runtime}" ${spot[@]+"${spot[@]}"}
}

delete() {
  # It cannot be deleted while it is being taken away.
  while [ -z "$dry_run" ] && [ "$("${state[@]}" || true)" = SUSPENDING ]; do
    sleep "$poll"
  done
  run "${queue[@]}" delete "${where[@]}" --force --quiet
}

on_all() {
  # A connection to what is gone must end.
  run "${vm[@]}" ssh "${where[@]}" --worker=all \
    --ssh-flag=-oServerAliveInterval=30 "--command=$1"
}

# Waits until there is a slice; fails when it is refused or taken away.
wait_for_slice() {
  local found
  if [ "$dry_run" ]; then
    note "every $poll s, until it is ACTIVE"
    run "${state[@]}"
    return
  fi
  while found=$("${state[@]}"); do
    case $found in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        note "the slice is $found"
        return 1
        ;;
    esac
    note "waiting for the slice, which is $found"
    sleep "$poll"
  done
  return 1
}

# Whether the slice is still there: if so, the job failed by itself.
still_there() {
  # It takes a while to be known.
  sleep "$poll"
  [ "$("${state[@]}" || true)" = ACTIVE ] &&
    [ "$("${node_state[@]}" || true)" = READY ]
}

# Copies and installs what is committed.
install() {
  local setup
  # An earlier start of this script may have left a job.
  setup="pkill -f '[p]ython -m experiments'; rm -rf byteprob"
  # With its history, by which results name their commit.
  setup="$setup; git -c advice.detachedHead=false clone -q"
  setup="$setup byteprob.bundle byteprob && cd byteprob"
  # The system's Python is too old.
  setup="$setup && python3 -m pip install -q --user uv"
  setup="$setup && python3 -m uv venv -q --python 3.12 .venv"
  setup="$setup && python3 -m uv pip install -q -e"
  run git -C "$root" bundle create -q "$parcel" HEAD || return
  run "${vm[@]}" scp "$parcel" "$LAUNCH_NAME:byteprob.bundle" \
    "${where[@]:1}" --worker=all || return
  on_all "$setup $(quoted ".[${LAUNCH_EXTRAS:-tpu,gcs}]")"
}

attempt() {
  wait_for_slice || return
  install || return
  on_all "cd byteprob && $(quoted .venv/bin/python -m "${job[@]}" \
    --distributed)"
}

if [ "$dry_run" ]; then
  parcel=byteprob.bundle
else
  parcels=$(mktemp -d)
  trap 'rm -rf "$parcels"' EXIT
  parcel=$parcels/byteprob.bundle
  if [ "$(git -C "$root" status --porcelain)" ]; then
    note "what is not committed is not copied"
  fi
fi

if [ "$dry_run" ] || ! "${state[@]}" >/dev/null 2>&1; then
  create
fi
left=$retries
while true; do
  code=0
  attempt || code=$?
  [ "$code" != 0 ] || break
  if still_there; then
    note "the job failed; look at it with: $(quoted "${vm[@]}" ssh \
      "${where[@]}"), and delete the slice with: $(quoted "${queue[@]}" \
      delete "${where[@]}" --force)"
    exit "$code"
  fi
  if [ "$left" = 0 ]; then
    delete
    note "the slice was taken away $((retries + 1)) times; run the same" \
      "command again to go on"
    exit 1
  fi
  left=$((left - 1))
  note "the slice was taken away; making another ($left more)"
  delete
  create
done
if [ "$dry_run" ]; then
  note "when the slice is taken away, at most $retries times: this, and all" \
    "that comes after it above"
  delete
  create
  note "when the job is done:"
fi
if [ "${LAUNCH_FETCH:-}" ]; then
  for word in "${job[@]}"; do
    case $word in --workdir=*) workdir=${word#*=} ;; esac
  done
  run mkdir -p "$LAUNCH_FETCH"
  run gcloud storage rsync --recursive "$workdir" "$LAUNCH_FETCH"
fi
[ "${LAUNCH_KEEP:-no}" = yes ] || delete
