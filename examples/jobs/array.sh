#!/bin/bash
# Many tasks get one array, so many at a time: bash array.sh [AT-A-TIME]
# With a time limit: timeout 2h bash array.sh
set -euo pipefail

export FSEXCHANGE_STORE=${FSEXCHANGE_DIR-/dev/shm}/job-$$

# At the end, also when a task fails, when the time is up, and after Ctrl-C.
finish() {
    trap '' INT TERM # a second one would stop this
    trap - EXIT
    kill $(jobs -p) 2>/dev/null && wait # a task that goes on would find its store closed
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

python height.py height.npy
fsexchange put height.npy --name height

tasks=()
for times in 1 2 3 4; do
    if [ "$(jobs -rp | wc -l)" -ge "${1-2}" ]; then
        wait -n || [ $? = 127 ] # which means that all have just ended
    fi
    python smooth.py "$times" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done # a task that failed ends the script

for times in 1 2 3 4; do
    fsexchange get "smooth/$times" -o "smooth$times.npy"
done
