#!/bin/bash
# Steps of a Slurm job hand each other arrays: sbatch slurm_steps.sh, in a directory that all hosts share
#SBATCH --job-name=steps --output=steps-%j.out
#SBATCH --nodes=2 --ntasks=4 --time=10
set -euo pipefail

export FSEXCHANGE_STORE=$PWD/store-$SLURM_JOB_ID
if [ "$SLURM_NNODES" = 1 ]; then # memory is faster, and slurm_epilog.sh clears this name
    FSEXCHANGE_STORE=/dev/shm/fsexchange-job-$SLURM_JOB_ID
fi

# At the end, also when a step fails. When the time is up, and by scancel, Slurm sends SIGTERM to all
# processes of the job, and after 30 s (KillWait) SIGKILL.
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

# 2. Two programs, on any host, get the array, mapped, and put what they make of it.
tasks=()
for times in 1 4; do
    srun --nodes=1 --ntasks=1 --exact python smooth.py "$times" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done # a task that fails ends the script

# 3. Ranks of MPI work on all of them. For Open MPI it is --mpi=pmix.
srun --mpi=pmi2 python -m mpi4py roughness.py &
wait $!

fsexchange get smooth/4 -o smooth4.npy
