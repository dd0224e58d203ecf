"""An Exchange for a communicator, in mpi4py's own tests and in random programs."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from .jobs import more_ranks, needs_mpi, passes
from .processes import ROOT, lacking

pytestmark = needs_mpi

FILES = [
    "test_cco_obj",
    "test_cco_obj_inter",  # an Exchange is split, and its halves joined by an intercommunicator
    "test_comm",
    "test_p2p_obj",
    "test_p2p_obj_matched",
    "test_util_pkl5",
]

#: Tests that are not run, and why.
LEFT_OUT = {
    "test_comm.TestCommSelf.testPickle": "MPI.COMM_SELF and MPI.COMM_WORLD alone can be pickled",
    "test_comm.TestCommWorld.testPickle": "MPI.COMM_SELF and MPI.COMM_WORLD alone can be pickled",
    "test_p2p_obj.*.testCommLock": "looks into a table of mpi4py's own",
    "test_util_pkl5.TestPKL5*": "the tests of TestMPI*, run here, once more with pkl5's options",
}


@pytest.mark.parametrize("n", [1, 2, 3, *more_ranks(5)])
def test_mpi4py(n: int, shm_dir: Path) -> None:
    tests = ROOT / ".venv" / "peers" / f"mpi4py-{version('mpi4py')}" / "test"
    if not tests.is_dir():
        lacking("mpi4py's source distribution, which scripts/test downloads")
    words = [str(tests), json.dumps(FILES), json.dumps(list(LEFT_OUT))]
    out = passes(n, "suites", "run_files", shm_dir, *words, timeout=110)
    print(out)
    found = re.search(r"(\d+) ran, (\d+) skipped", out)
    assert found is not None, out
    ran, skipped = map(int, found.groups())
    # mpi4py skips what needs two ranks or groups, and what an MPI cannot do.
    assert skipped < 50 < 250 < ran, out


@pytest.mark.parametrize("n", [2, 3, 4])
def test_random_programs(n: int, shm_dir: Path) -> None:
    """A hundred in all."""
    passes(n, "random_programs", "compare", shm_dir, str(100 * n), "34", timeout=110)
