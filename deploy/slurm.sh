#!/bin/bash
# A sweep on SLURM: a Ray head on the first node, a Ray worker on each other node, the driver on the first.
#
#   sbatch --nodes=3 --gpus-per-node=4 deploy/slurm.sh sweeps/vit_proxy.yaml --runs /shared/runs
#
# The nodes share the photographs and the run folder. SLURM ends a job at its time limit: five minutes before, it sends
# SIGTERM to this script, which ends the sweep. Trials keep the epochs that have ended or end within 10 s; the rest of the
# time is for report and bundle. Submit the same job again to go on; --requeue lets SLURM do so after a node failure. The
# exit code is that of the sweep: 0, or 3 if some trials failed; 4 if no node was left that could run them; 130 if it was
# interrupted; 1 if Ray could not be started.
#
#SBATCH --job-name=whale_ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
set -u

if [ $# -eq 0 ]; then
    echo "usage: sbatch [OPTION…] $0 SWEEP.yaml [OPTION…]" >&2
    exit 2
fi

port=${WHALE_RAY_PORT:-6379}
seconds=${WHALE_RAY_START_SECONDS:-120}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address="${nodes[0]}:$port"
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_USAGE_STATS_ENABLED=0
ray get-auth-token --generate > /dev/null   # in the home folder, which the nodes share

steps=()
driver=
ended=       # a signal came before the driver
signaled=    # a signal came while this script waited for the driver

stop_all() {
    [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2> /dev/null
    wait
}

on_term() {   # the time limit, or scancel: the driver ends the sweep
    signaled=yes
    if [ -z "$driver" ]; then ended=yes; else kill -TERM "$driver" 2> /dev/null; fi
}

start_step() {   # NODE COMMAND…: runs until the job ends
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" "$@" &
    steps+=("$!")
}

are_steps_alive() {
    local step
    for step in "${steps[@]}"; do
        kill -0 "$step" 2> /dev/null || return 1
    done
}

count_nodes() {
    ray status --address "$address" 2> /dev/null | sed -n '/^Active:/,/^Pending:/p' | grep -c ' node_'
}

wait_for_nodes() {   # COUNT: until as many nodes have joined; fails if a step or the job has ended or time is up
    local deadline=$((SECONDS + seconds))
    until [ "$(count_nodes)" -ge "$1" ]; do
        [ -z "$ended" ] || return 1
        are_steps_alive || { echo "a \`ray start\` has failed; its output is above" >&2; return 1; }
        [ $SECONDS -lt $deadline ] || { echo "$1 nodes did not join within $seconds s" >&2; return 1; }
        sleep 2
    done
}

start_nodes() {
    local node
    start_step "${nodes[0]}" ray start --head --port="$port" --block
    wait_for_nodes 1 || return 1
    for node in "${nodes[@]:1}"; do
        start_step "$node" ray start --address="$address" --block
    done
    wait_for_nodes ${#nodes[@]}
}

trap on_term TERM INT
code=
start_nodes || code=1
[ -z "$ended" ] || { echo "the job was ended before the sweep began; submit it again" >&2; code=130; }
[ -z "$code" ] || { stop_all; exit "$code"; }

python -m whale_ray.sweep "$@" --address "$address" &
driver=$!
[ -z "$ended" ] || kill -TERM "$driver" 2> /dev/null   # the signal came just before the driver
signaled=yes
while [ -n "$signaled" ]; do   # `wait` also returns at a signal
    signaled=
    wait "$driver"
    code=$?
done
driver=
[ "$code" -ne 143 ] || code=130   # Python was still starting and did not handle SIGTERM
stop_all
exit "$code"
