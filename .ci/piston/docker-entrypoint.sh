#!/bin/bash
# What Piston's own entry point demands: a cgroup v2 in which process 1 can be given a group of its
# own, after which no process is in the topmost one; and a hard limit of 65536 open files, where
# the machine can give that many.
set -eu
cd /sys/fs/cgroup
mkdir isolate
echo 1 >isolate/cgroup.procs
for controller in $(<cgroup.controllers); do
  echo "+$controller" >cgroup.subtree_control
done
mkdir isolate/init
echo 1 >isolate/init/cgroup.procs
for controller in $(<isolate/cgroup.controllers); do
  echo "+$controller" >isolate/cgroup.subtree_control
done
echo 'Initialized cgroup'
chown -R piston:piston /piston
exec su -- piston -c "ulimit -n ${PISTON_OPEN_FILES:-65536} && node /piston_api/src"
