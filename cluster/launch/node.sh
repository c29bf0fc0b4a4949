#!/usr/bin/env bash
# One Ray node on this machine, in the foreground until it is told to stop:
#
#   node.sh head                  the first machine, where the driver runs
#   node.sh worker HEAD_IP        every other machine
#
# What follows goes to `ray start`, as --num-cpus=8 does. STEERSWEEP_PORT is the head's port and the
# first of ten that are taken (6379), STEERSWEEP_NODE_IP this machine's address where Ray's guess is
# wrong. Nobody joins or reaches the dashboard without the token in RAY_AUTH_TOKEN or in
# ~/.ray/auth_token, and the dashboard listens on this machine only.
set -euo pipefail

complain() {
  echo "node.sh: $1" >&2
  exit 2
}

role=${1:-}
port=${STEERSWEEP_PORT:-6379}
token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[[ $port =~ ^[0-9]+$ && $port -ge 1024 && $port -le 65520 ]] ||
  complain "STEERSWEEP_PORT must be in 1024..65520, got $port"
command -v ray >/dev/null || complain "ray is not on the PATH; activate the environment of steersweep first"

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Every batch has another shape: without this, torch keeps GPU memory in pieces that fit none of them.
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
options=(--dashboard-agent-listen-port=$((port + 3)))
case $role in
head)
  shift
  [[ -n ${RAY_AUTH_TOKEN:-} || -s $token_file ]] || ray get-auth-token --generate >/dev/null
  options+=(
    --head --port="$port"
    --include-dashboard="${STEERSWEEP_DASHBOARD:-true}" --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1))
    --ray-client-server-port=$((port + 2))
  )
  ;;
worker)
  [[ -n ${2:-} ]] || complain "a worker needs the address of the head: node.sh worker HEAD_IP"
  [[ -n ${RAY_AUTH_TOKEN:-} || -s $token_file ]] ||
    complain "no token: copy ~/.ray/auth_token from the head to $token_file"
  options+=(--address="$2:$port")
  echo "node.sh: joining the head at $2:$port as soon as it is there" >&2
  until (exec 3<>"/dev/tcp/$2/$port") 2>/dev/null; do sleep 1; done
  shift 2
  ;;
*)
  complain "the first argument must be head or worker, got '$role'"
  ;;
esac
if [[ -n ${RAY_TMPDIR:-} ]]; then
  mkdir -m 700 "$RAY_TMPDIR" 2>/dev/null || [[ -d $RAY_TMPDIR && -O $RAY_TMPDIR ]] ||
    complain "RAY_TMPDIR is $RAY_TMPDIR, which is not a folder of yours"
fi
[[ -z ${STEERSWEEP_NODE_IP:-} ]] || options+=(--node-ip-address="$STEERSWEEP_NODE_IP")

ulimit -n "$(ulimit -Hn)" || true
exec ray start "${options[@]}" --block "$@"
