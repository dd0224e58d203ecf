#!/bin/bash
# Steps of a PBS job hand each other arrays: qsub pbs_steps.sh, in a directory that all hosts share
#PBS -N steps -j oe
#PBS -l select=2:ncpus=2:mpiprocs=2 -l walltime=00:10:00
set -euo pipefail
cd "$PBS_O_WORKDIR"

export FSEXCHANGE_STORE=$PWD/store-${PBS_JOBID%%.*}
if [ "$(sort -u "$PBS_NODEFILE" | wc -l)" = 1 ]; then # memory is faster
    FSEXCHANGE_STORE=/dev/shm/fsexchange-job-${PBS_JOBID%%.*}
fi

# At the end, also when a step fails. When the time is up, and by qdel, PBS sends SIGTERM to all
# processes of the job, and after 10 s (kill_delay) SIGKILL.
finish() {
    trap '' INT TERM # a second one would stop this
    trap - EXIT
    kill $(jobs -p) 2>/dev/null && wait # a step that goes on would find its store closed
    fsexchange clear || [ $# != 0 ]
    if [ $# != 0 ]; then
        trap - "$1"
        kill -s "$1" $$
    fi
}
trap finish EXIT
trap 'finish INT' INT # else bash ends at a second signal, as timeout sends, without the EXIT trap
trap 'finish TERM' TERM
fsexchange init "$FSEXCHANGE_STORE"

# 1. A program writes a file; its array becomes an object with a name.
python height.py height.npy
fsexchange put height.npy --name height

# 2. Two programs, on the first host, get the array, mapped, and put what they make of it.
tasks=()
for times in 1 4; do
    python smooth.py "$times" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done # a task that fails ends the script

# 3. Ranks of MPI work on all of them.
mpirun python -m mpi4py roughness.py &
wait $!

fsexchange get smooth/4 -o smooth4.npy
