#!/bin/bash
# Tasks of a PBS array get one array, and a last job collects what they put:
#     bash pbs_array.sh        on the login node, in a directory that all hosts share
#PBS -N array -j oe
#PBS -l select=1:ncpus=1 -l walltime=00:10:00
set -euo pipefail
cd "${PBS_O_WORKDIR-.}"

case ${STEP-submit} in
submit)
    line=$(FSEXCHANGE_DIR=$PWD fsexchange init)
    eval "$line"                 # exports FSEXCHANGE_STORE
    trap 'fsexchange clear' EXIT # if the jobs cannot be submitted
    python height.py height.npy
    fsexchange put height.npy --name height
    tasks=$(qsub -v "PATH,FSEXCHANGE_STORE,STEP=task" -J 1-4 "$0")
    # Also after tasks that failed:
    qsub -v "PATH,FSEXCHANGE_STORE,STEP=collect" -W depend="afterany:$tasks" "$0"
    trap - EXIT
    ;;
task)
    python smooth.py "$PBS_ARRAY_INDEX"
    ;;
collect) # if this job is deleted before it starts, the store stays: fsexchange clear DIR
    trap 'fsexchange clear' EXIT
    status=0
    for times in 1 2 3 4; do
        fsexchange get "smooth/$times" -o "smooth$times.npy" || status=$?
    done
    exit $status
    ;;
esac
