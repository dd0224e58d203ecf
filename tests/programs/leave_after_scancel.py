"""Kill a job of two ranks, all processes at once, as `scancel` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

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


def status(pid: int) -> str:
    """Return what the kernel says of a process; nothing of one that is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


assert mpirun_path is not None
job = subprocess.Popen(
    [mpirun_path, "-n", "2", sys.executable, "-m", "mpi4py", "-c", SCRIPT],
    stdout=subprocess.PIPE,
    env={**_ANYWHERE, **os.environ},
)
assert job.stdout is not None
pids = [int(job.stdout.readline()) for _ in range(2)]
for pid in (job.pid, *pids):
    os.kill(pid, signal.SIGKILL)
job.wait()
for pid in pids:  # a process that is killed lives on until its memory is given back
    while os.path.exists(f"/proc/{pid}") and " (zombie)" not in status(pid):
        time.sleep(0.01)
