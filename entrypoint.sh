#!/bin/sh
# Says what the container allows, then starts the engine that SESSION_ENGINE names and the adapter
# in front of it.
#
# The embedded engine is part of the adapter, which takes this process's place. Piston, where the
# image has one, runs beside it: when one of the two ends, so does the other, and then the
# container, with the exit code of the one that ended first.
set -u

piston=${PISTON_ENTRYPOINT:-/piston_api/src/docker-entrypoint.sh}
cgroup=${PISTON_CGROUP:-/sys/fs/cgroup}
# What its entry point gives it of open files.
open_files=${PISTON_OPEN_FILES:-65536}
# Exit code for a container that does not allow what the engine needs (EX_CONFIG of sysexits.h).
not_allowed=78

# log LEVEL MESSAGE [FIELDS]: one line as the adapter writes them. Nothing in it needs escaping.
log() {
  printf '{"timestamp":"%s","level":"%s","message":"%s"%s}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)" "$1" "$2" "${3:-}" >&2
}

# What this process has: user, effective capabilities in hexadecimal, seccomp's mode.
read_rights() {
  user='' capabilities=0 seccomp=''
  while read -r name value _; do
    case $name in
      Uid:) user=$value ;;
      CapEff:) capabilities=$value ;;
      Seccomp:) seccomp=$value ;;
    esac
  done </proc/self/status
  # shellcheck disable=SC3045 # in POSIX since 2024, and in Debian's shells before
  open_files_hard=$(ulimit -H -n)
  if [ -e "$cgroup/cgroup.subtree_control" ]; then
    cgroup_version=2
  else
    cgroup_version=1
  fi
  cgroup_writable=false
  [ ! -w "$cgroup" ] || cgroup_writable=true
  root_writable=false
  [ ! -w / ] || root_writable=true
}

# has BIT: whether the capability of this number is there.
has() { [ $((0x$capabilities >> $1 & 1)) = 1 ]; }

# need SENTENCE COMMAND…: counts and says what is missing where the command fails.
need() {
  sentence=$1
  shift
  "$@" 2>/dev/null && return
  missing=$((missing + 1))
  log ERROR "$sentence"
}

enough_open_files() {
  # shellcheck disable=SC3045 # as above
  [ "$open_files_hard" = unlimited ] || [ "$open_files_hard" -ge "$open_files" ] ||
    ulimit -H -n "$open_files"
}

is_cgroup2() { [ "$cgroup_version" = 2 ] && [ ! -e "$cgroup/unified" ]; }

# Piston gives process 1 of its container a control group of its own, and can hand controllers to
# it only where no other process is in the topmost one.
make_way() {
  ours=$cgroup/session-adapter
  mkdir -p "$ours" || return
  # Processes that have ended meanwhile cannot be moved, and need not be.
  while read -r pid; do
    echo "$pid" >"$ours/cgroup.procs" || true
  done <"$cgroup/cgroup.procs"
}

# milliseconds SECONDS, which may have a fraction.
milliseconds() { awk -v seconds="$1" 'BEGIN { printf "%d", seconds * 1000 }'; }

# bytes SIZE: of a number, or one with KiB, MiB or GiB behind it.
bytes() {
  number=${1%%[!0-9]*}
  case $1 in
    *[Kk][Ii][Bb]) echo $((number << 10)) ;;
    *[Mm][Ii][Bb]) echo $((number << 20)) ;;
    *[Gg][Ii][Bb]) echo $((number << 30)) ;;
    *) echo "$number" ;;
  esac
}

# Piston's limits are those of the adapter's environment, unless they were given themselves: its
# own are 3 s and 1 kB.
raise_limits() {
  run=$(milliseconds "${MAX_RUN_TIMEOUT_SECONDS:-220}")
  compile=$(milliseconds "${COMPILE_TIMEOUT_SECONDS:-20}")
  memory=$(bytes "${JOB_MEMORY_BYTES:-512MiB}")
  export PISTON_BIND_ADDRESS=127.0.0.1:2001
  export PISTON_RUN_TIMEOUT="${PISTON_RUN_TIMEOUT:-$run}"
  export PISTON_RUN_CPU_TIME="${PISTON_RUN_CPU_TIME:-$run}"
  export PISTON_COMPILE_TIMEOUT="${PISTON_COMPILE_TIMEOUT:-$compile}"
  export PISTON_COMPILE_CPU_TIME="${PISTON_COMPILE_CPU_TIME:-$compile}"
  export PISTON_RUN_MEMORY_LIMIT="${PISTON_RUN_MEMORY_LIMIT:-$memory}"
  export PISTON_COMPILE_MEMORY_LIMIT="${PISTON_COMPILE_MEMORY_LIMIT:-$memory}"
  export PISTON_OUTPUT_MAX_SIZE="${PISTON_OUTPUT_MAX_SIZE:-$(bytes "${OUTPUT_LIMIT_BYTES:-1MiB}")}"
  export PISTON_MAX_FILE_SIZE="${PISTON_MAX_FILE_SIZE:-$(bytes "${JOB_FILE_BYTES:-256MiB}")}"
  export PISTON_MAX_PROCESS_COUNT="${PISTON_MAX_PROCESS_COUNT:-${JOB_PROCESSES:-256}}"
  export PISTON_MAX_OPEN_FILES="${PISTON_MAX_OPEN_FILES:-${JOB_OPEN_FILES:-2048}}"
}

run_with_piston() {
  missing=0
  need 'Piston needs root: start the container without --user.' [ "$user" = 0 ]
  need 'Piston needs the capability SYS_ADMIN: start the container with --privileged.' has 21
  need 'Piston needs the capability NET_ADMIN: start the container with --privileged.' has 12
  if is_cgroup2; then
    need 'Piston needs a writable /sys/fs/cgroup: start the container with --privileged.' make_way
  else
    need 'Piston needs a machine with cgroup v2 alone.' false
  fi
  need "Piston needs a hard limit of $open_files open files: start the container with --ulimit nofile=$open_files:$open_files." \
    enough_open_files
  [ "$missing" = 0 ] || exit "$not_allowed"

  raise_limits
  stop='' lost=''
  session-adapter serve --engine piston "$@" &
  adapter=$!
  trap 'stop=yes; kill -TERM "$adapter"' TERM
  trap 'stop=yes; kill -INT "$adapter"' INT
  trap 'lost=yes; kill -TERM "$adapter"' USR1
  watch_piston &
  watcher=$!

  wait_for "$adapter"
  if [ -n "$lost" ]; then
    wait_for "$watcher"
    [ "$code" != 0 ] || code=1
  else
    [ -n "$stop" ] || log ERROR 'the adapter ended unexpectedly: going down' ",\"exit_code\":$code"
    # Nobody waits any more for what Piston still does.
    trap '' USR1
    kill -TERM "$watcher"
  fi
  exit "$code"
}

# Runs Piston as process 1 of a process namespace of its own, with which everything in it ends;
# tells the main process when it has ended.
watch_piston() {
  unshare --pid --fork --mount-proc --kill-child "$piston" &
  unshare=$!
  trap 'trap "" TERM; kill -KILL "$unshare"; exit' TERM
  trap '' INT
  wait_for "$unshare"
  log ERROR 'Piston ended unexpectedly: going down' ",\"exit_code\":$code"
  kill -USR1 "$$"
  exit "$code"
}

# wait_for PID: sets `code`, the exit code. A signal only interrupts the waiting.
wait_for() {
  while :; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || return 0
  done
}

read_rights
engine=${SESSION_ENGINE:-embedded}
case $engine in
  embedded | piston)
    log INFO starting ",\"engine\":\"$engine\",\"user\":$user,\"capabilities\":\"$capabilities\"\
,\"seccomp\":$seccomp,\"open_files\":\"$open_files_hard\",\"cgroup_version\":$cgroup_version\
,\"cgroup_writable\":$cgroup_writable,\"root_writable\":$root_writable"
    ;;
  # The adapter says what is allowed.
  *) ;;
esac

# Where everybody may leave something, and nothing is swept.
[ "$user" != 0 ] || chmod -f o-w /dev/mqueue || true

if [ "$engine" = piston ] && [ -x "$piston" ]; then
  run_with_piston "$@"
fi
exec session-adapter serve "$@"
