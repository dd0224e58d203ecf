#!/bin/bash
# Three steps of a job script hand each other arrays: usage: steps.sh [DIR-THAT-ALL-HOSTS-SHARE]
set -euo pipefail

store=$(fsexchange init ${1+"$1"}) # by itself, so that an error ends the script
eval "$store"                      # the line exports FSEXCHANGE_STORE
trap 'fsexchange clear' EXIT       # also when a step fails, or the job is cancelled

# 1. A program writes a file; its array becomes an object with a name.
python -c 'import numpy as np; np.save("height.npy", np.random.default_rng(1).random((500, 500)))'
fsexchange put height.npy --name height

# 2. Two programs get the array, mapped, and put what they make of it. They may start at any time.
for axis in 0 1; do
    python - "$axis" <<'END' &
import sys
import numpy as np
from fsexchange import Store

axis = int(sys.argv[1])
with Store() as store:
    slope = np.gradient(store.get("height"), axis=axis)
    store.put(slope, name=f"slope/{axis}")
END
done

# 3. The last step waits for both, and writes files.
fsexchange wait slope/0 slope/1 --timeout 600
fsexchange ls
fsexchange get slope/0 -o slope0.npy
fsexchange get slope/1 -o - | python -c '
import io, sys, numpy as np
print("mean slope", np.abs(np.load(io.BytesIO(sys.stdin.buffer.read()))).mean().round(3))'
wait
