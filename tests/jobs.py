"""MPI jobs for tests, each with a hard limit of time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .processes import ROOT
from .ranks import __name__ as _bodies

mpirun_path = shutil.which(
    "mpirun", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
)

needs_mpi = pytest.mark.mpi


def more_ranks(n: int) -> list[int]:
    """Return a number of ranks for `scripts/test --all`, which repeats what takes long with it."""
    return [n] if os.environ.get("FSEXCHANGE_TEST_MORE_RANKS") else []


# Without these Open MPI refuses root and more ranks than cores, and Intel MPI fails to spawn.
_ANYWHERE = {
    "I_MPI_SPAWN": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpirun(
    *command: str | os.PathLike[str], timeout: float = 60, before: Sequence[str] = ()
) -> tuple[int, str]:
    """Run an MPI job; a deadlock fails here instead of hanging, and leaves no rank behind."""
    assert mpirun_path is not None
    job = subprocess.Popen(
        [*before, mpirun_path, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**_ANYWHERE, **os.environ},
        start_new_session=True,
    )
    try:
        out, _ = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, _ = job.communicate()
        pytest.fail(f"the job hangs: {' '.join(map(str, command))}\n{out}")
    except BaseException:  # Ctrl-C, which does not reach the job by itself
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        raise
    return job.returncode, out


def ranks(
    n: int,
    body: str,
    base: Path,
    *args: str,
    module: str = "bodies",
    before: Sequence[str] = (),
    launcher: Sequence[str] = ("-m", "mpi4py"),
) -> list[str]:
    """Return the words of a command line for `n` ranks that run one body of a module."""
    python = [sys.executable, "-W", "error", *launcher]
    return ["-n", str(n), *before, *python, "-m", f"{_bodies}.{module}", body, str(base), *args]


def passes(
    n: int,
    module: str,
    body: str,
    base: Path,
    *args: str,
    timeout: float = 60,
    before: Sequence[str] = (),
) -> str:
    """Run one body on `n` ranks to its end on all of them; return what they print."""
    status, out = mpirun(
        *ranks(n, body, base, *args, module=module), timeout=timeout, before=before
    )
    assert status == 0, out
    assert f"{body} passed on all ranks" in out
    return out


def all_pass(
    n: int, module: str, bodies: Sequence[str], base: Path, *, before: Sequence[str] = ()
) -> None:
    """Run bodies on `n` ranks, one after the other in one job, as the start of one takes seconds.

    Fail with the name and the output of each that fails; the others go on in another job.
    """
    left, failed = [*bodies], []
    while left:
        words = ranks(n, ",".join(left), base / f"last-{len(left)}", module=module, before=before)
        status, out = mpirun(*words, timeout=110)
        passed = re.findall(r"^(\w+) passed on all ranks$", out, re.MULTILINE)
        assert passed == left[: len(passed)], out
        if passed == left and status:
            failed.append(f"the end of the job after {left[-1]}: exit status {status}\n{out}")
        elif passed != left:
            failed.append(f"{left[len(passed)]} on {n} ranks: exit status {status}\n{out}")
        left = left[len(passed) + 1 :]
    assert not failed, "\n".join(failed)
