#!/usr/bin/env bash
# A single-node Slurm cluster on this machine: `slurm.sh DIR` starts it, with all of its files in DIR,
# and `slurm.sh DIR stop` stops it. Needs root and the Debian packages slurm-wlm and munge. Set
# SLURM_CONF=DIR/slurm.conf to use the cluster.
set -euo pipefail
dir=$1

if [[ ${2:-} == stop ]]; then
  for daemon in slurmctld slurmd; do
    pid=$(<"$dir/$daemon.pid")
    kill "$pid" || true
    timeout 10 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
  done
  exit
fi

mkdir -p "$dir/state" "$dir/spool"
port=$((20000 + $$ % 20000)) # another cluster may run on this machine
cat >"$dir/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5 # seconds until a requeued job restarts; two minutes by default
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
END
export SLURM_CONF=$dir/slurm.conf

if ! munge -n >/dev/null 2>&1; then # the daemons need it to authenticate each other
  key=/etc/munge/munge.key
  [[ -s $key ]] || head -c 1024 /dev/urandom >$key
  mkdir -p /run/munge
  chown munge: $key /run/munge
  chmod 400 $key
  su -s /bin/sh -c /usr/sbin/munged munge
fi
slurmctld
slurmd
for _ in {1..60}; do
  sinfo --noheader --states=idle 2>/dev/null | grep -q idle && exit
  sleep 0.5
done
tail "$dir"/*.log >&2
exit 1
