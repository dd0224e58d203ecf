#!/bin/bash
# Steps of a job script hand each other arrays: bash steps.sh [DIR-THAT-ALL-HOSTS-SHARE]
# With a time limit: timeout 2h bash steps.sh
set -euo pipefail

export FSEXCHANGE_STORE=${1-${FSEXCHANGE_DIR-/dev/shm}/job-$$}

# At the end, also when a step fails, when the time is up, and after Ctrl-C.
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

# 2. Two programs get the array, mapped, and put what they make of it.
tasks=()
for times in 1 4; do
    python smooth.py "$times" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done # a task that fails ends the script

# 3. The last step looks at both, and writes files.
fsexchange ls
fsexchange get smooth/1 -o smooth1.npy
fsexchange get smooth/4 -o - | python -c '
import io, sys, numpy as np
print("spread", np.load(io.BytesIO(sys.stdin.buffer.read())).std().round(3))'
