"""Kill a job of two ranks, all processes at once, as `scancel` does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil

from tests.jobs import _ANYWHERE, mpirun_path

SCRIPT = """
import os, time
import numpy as np
from fsexchange.mpi import Exchange

ex = Exchange()
ex.put(np.zeros(1 << 23))
ex.barrier()
print(os.getpid(), flush=True)
time.sleep(600)
"""

assert mpirun_path is not None
job = subprocess.Popen(
    [mpirun_path, "-n", "2", sys.executable, "-m", "mpi4py", "-c", SCRIPT],
    stdout=subprocess.PIPE,
    env={**_ANYWHERE, **os.environ},
)
assert job.stdout is not None
try:
    for _ in range(2):
        job.stdout.readline()
finally:
    processes = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    job.wait()
for process in processes:  # one that is killed lives on until its memory is given back
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
