#!/usr/bin/env bash
# A sweep as a SLURM job, one Ray node on each of its nodes and the driver on the first one:
#
#   sbatch cluster/launch/slurm.sh sweep.yaml [options of steersweep run]
#
# At the time limit the driver keeps what is finished and the job queues again; a preempted job is
# queued again by SLURM. Both go on from what is there. See docs/slurm.md.
#SBATCH --job-name=steersweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --output=steersweep-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

JOIN_S=300      # that nodes may take to join
MAX_REQUEUES=50 # by the time limit; a sweep that ends at none of them does not fit

complain() {
  echo "slurm.sh: $1" >&2
  exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || complain "start it with sbatch"
[[ $# -ge 1 ]] || complain "which sweep? sbatch slurm.sh sweep.yaml"
command -v steersweep >/dev/null ||
  complain "steersweep is not on the PATH; activate its environment before sbatch"
# -P: not what happens to be called `cluster` or `ray` in the folder of the sweep.
node_script=$(python -P -c 'import cluster, pathlib; print(pathlib.Path(cluster.__file__).with_name("launch") / "node.sh")')

mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_name=${names[0]}
# The name of a node may lead to its loopback address, which no other node reaches.
head_ip=${STEERSWEEP_HEAD_IP:-$(getent ahostsv4 "$head_name" | awk '$1 !~ /^127\./ && !n++ { print $1 }')}
[[ -n $head_ip ]] || complain "$head_name has no address that other nodes reach; set STEERSWEEP_HEAD_IP"

# Jobs that share a node share neither ports, nor files, nor the token. Sockets in the folder have
# long names, of which the system allows 107 bytes: hence no TMPDIR.
export STEERSWEEP_PORT=$((20000 + SLURM_JOB_ID % 1200 * 10))
export RAY_TMPDIR=/tmp/steersweep-$SLURM_JOB_ID
RAY_AUTH_TOKEN=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_ADDRESS=$head_ip:$STEERSWEEP_PORT
num_cpus=${SLURM_CPUS_PER_TASK:-1}

# shellcheck disable=SC2016 # the variables are those of each task
start_node='
  if [[ $SLURM_PROCID -eq 0 ]]; then export STEERSWEEP_NODE_IP=$2; role=(head); else role=(worker "$2"); fi
  bash "$1" "${role[@]}" --num-cpus="$3" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" &
  trap "kill $! 2>/dev/null" TERM
  while kill -0 $! 2>/dev/null; do wait $!; done
  rm -rf "$RAY_TMPDIR"
'

stopped_by="" child="" code=0
# shellcheck disable=SC2329 # the traps call it
stop() {
  stopped_by=$1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap 'stop time' USR1
trap 'stop user' TERM INT

await() { # PID: its exit code in $code; a trapped signal only interrupts the wait
  while true; do
    code=0
    wait "$1" || code=$?
    kill -0 "$1" 2>/dev/null || break
  done
}

# One task on each node, of which the first is this one.
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$num_cpus" \
  --kill-on-bad-exit=0 --wait=0 bash -c "$start_node" node "$node_script" "$head_ip" "$num_cpus" &
nodes=$!

python -P - "$SLURM_JOB_NUM_NODES" "$JOIN_S" <<'PY' &
import logging, os, signal, socket, sys, time

num_nodes, deadline = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
host, _, port = os.environ["RAY_ADDRESS"].rpartition(":")


def joined():
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return 0
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return sum(node["Alive"] for node in ray.nodes())


while (num_joined := joined()) < num_nodes:
    if time.monotonic() > deadline:
        sys.exit(f"slurm.sh: {num_joined} of {num_nodes} nodes joined in {sys.argv[2]} s; see above")
    time.sleep(1)
PY
child=$!
await "$child"
if [[ $code -eq 0 && -z $stopped_by ]]; then
  steersweep run "$@" &
  child=$!
  await "$child"
fi
driver_code=$code
kill -TERM "$nodes" 2>/dev/null || true
await "$nodes"

if [[ $stopped_by == time && $driver_code -ne 0 ]]; then
  [[ ${SLURM_RESTART_COUNT:-0} -lt $MAX_REQUEUES ]] ||
    complain "the time limit ended it $MAX_REQUEUES times; give it more time or more nodes"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$driver_code"
