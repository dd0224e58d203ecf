#!/bin/bash
# Tasks of a Slurm array get one array, and a last job collects what they put:
#     bash slurm_array.sh      on the login node, in a directory that all hosts share
#SBATCH --job-name=array --output=array-%j.out
#SBATCH --ntasks=1 --time=10
set -euo pipefail

case ${STEP-submit} in
submit)
    line=$(FSEXCHANGE_DIR=$PWD fsexchange init)
    eval "$line"                 # exports FSEXCHANGE_STORE, which the jobs inherit
    trap 'fsexchange clear' EXIT # if the jobs cannot be submitted
    python height.py height.npy
    fsexchange put height.npy --name height
    tasks=$(STEP=task sbatch --parsable --array=1-4 "$0")
    STEP=collect sbatch --dependency="afterany:$tasks" "$0" # also after tasks that failed
    trap - EXIT
    ;;
task)
    python smooth.py "$SLURM_ARRAY_TASK_ID"
    ;;
collect) # if this job is cancelled before it starts, the store stays: fsexchange clear DIR
    trap 'fsexchange clear' EXIT
    status=0
    for times in 1 2 3 4; do
        fsexchange get "smooth/$times" -o "smooth$times.npy" || status=$?
    done
    exit $status
    ;;
esac
