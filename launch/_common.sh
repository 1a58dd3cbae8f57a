# What the launchers share: settings, and commands that are shown and run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # The scripts use it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=
job=()

# Ends with a user's mistake.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# The words of a command, quoted so that a shell reads the same words.
quoted() {
  local word quote="'\\''" space=
  for word in "$@"; do
    printf '%s' "$space"
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "${word//\'/$quote}" ;;
      *) printf '%s' "$word" ;;
    esac
    space=' '
  done
}

# Shows a command and runs it; only shows it in a dry run.
run() {
  if [ "$dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# Says what happens; as a comment in a dry run.
note() {
  if [ "$dry_run" ]; then
    printf '# %s\n' "$*"
  else
    printf '%s: %s\n' "${0##*/}" "$*" >&2
  fi
}

# Reads "--name=value ... -- experiments.x ..." into LAUNCH_NAME and `job`.
#   $1: the names of the settings, apart by spaces; then the script's words.
read_settings() {
  local known=" $1 " name
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --) break ;;
      --dry_run) dry_run=yes ;;
      --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      --*=*)
        name=${1%%=*}
        name=${name#--}
        case $known in
          *" $name "*) ;;
          *) fail "there is no setting --$name; there are:$known" ;;
        esac
        name=$(printf '%s' "$name" | tr '[:lower:]' '[:upper:]')
        printf -v "LAUNCH_$name" '%s' "${1#*=}"
        ;;
      *) fail "$1 is not of the form --name=value; the job comes after --" ;;
    esac
    shift
  done
  [ $# -gt 1 ] || fail "nothing to run: end with -- experiments.bias" \
    "--workdir=..."
  shift
  case $1 in
    experiments.*) job=("$@") ;;
    *) fail "after -- comes an experiment's name, as experiments.bias, not $1" ;;
  esac
}

# Ends unless all of the settings named have a value.
need() {
  local name variable
  for name in "$@"; do
    variable=LAUNCH_$(printf '%s' "$name" | tr '[:lower:]' '[:upper:]')
    [ "${!variable:-}" ] || fail "say --$name=... or set $variable" \
      "(see launch/README.md)"
  done
}

# Ends unless a setting is a whole number.
#   $1: its name; $2: its value; $3: the least it may be.
need_number() {
  case $2 in
    '' | *[!0-9]*) fail "--$1 must be a whole number, not '$2'" ;;
  esac
  [ "$2" -ge "$3" ] || fail "--$1 must be at least $3, not $2"
}

# Ends unless the job writes to a bucket: its machines share no disk.
need_bucket() {
  local word
  for word in "${job[@]}"; do
    case $word in --workdir=gs://?*) return ;; esac
  done
  fail "the machines share no disk: give the job --workdir=gs://BUCKET/RUN"
}
