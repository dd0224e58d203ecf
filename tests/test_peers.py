"""Programs of others print the same by an Exchange as by a communicator."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from .jobs import mpirun, needs_mpi
from .processes import ROOT, lacking

pytestmark = needs_mpi

MPI4PY = ROOT / ".venv" / "peers" / f"mpi4py-{version('mpi4py')}"


def run(n: int, program: str, way: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """Return the lines that a program prints."""
    threads = ["env", "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "UCX_LOG_LEVEL=error"]
    python = [*threads, sys.executable, "-m", "mpi4py", "-m", "tests.ranks.peers"]
    status, out = mpirun("-n", str(n), *python, program, way, *arguments)
    assert status == 0, out
    return out.splitlines()


def needs(package: str) -> None:
    if find_spec(package) is None:
        lacking(package)


@pytest.mark.parametrize("program", ["schwimmbad", "emcee", "dlp_mpi"])
def test_workers(program: str) -> None:
    """Those of schwimmbad end by `sys.exit(0)`; the first rank closes the pool when it ends."""
    needs(program)
    expected = run(3, program, "comm")
    assert expected
    assert run(3, program, "exchange") == expected


def test_chains(tmp_path: Path) -> None:
    needs("PTMCMCSampler")
    expected = run(2, "ptmcmc", "comm", tmp_path / "one")
    assert len(expected) == 2
    assert run(2, "ptmcmc", "with", tmp_path / "other") == expected


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("program", ["demos", "tutorial"])
def test_mpi4py(program: str, n: int, tmp_path: Path) -> None:
    if not MPI4PY.is_dir():
        lacking("mpi4py's source distribution, which scripts/test downloads")
    arguments: list[Path] = [MPI4PY / "demo"]
    if program == "tutorial":
        arguments = [MPI4PY / "docs" / "source" / "tutorial.rst", tmp_path]
    expected = run(n, program, "comm", *arguments)
    assert len(expected) > 2 * n
    assert run(n, program, "with", *arguments) == expected
