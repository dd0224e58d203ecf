"""mpi4py's own tests with Exchanges for its communicators: `suites.py run_files DIRECTORY ...`.

tests/test_suites.py launches them. A test that hangs ends the job, with the stacks of all ranks.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import unittest
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import mpi4py
import mpi4py.util.pkl5  # before the package's MPI is replaced, which this one keeps
from mpi4py import MPI

from fsexchange.mpi import Exchange

from .common import comm, rank, run

# Seconds for one test.
PATIENCE = 30


class Standin:
    """The module `MPI` with Exchanges in the place of its two communicators."""

    def __init__(self, alone: Exchange, world: Exchange) -> None:
        self.COMM_SELF, self.COMM_WORLD = alone, world

    def __getattr__(self, name: str) -> Any:
        return getattr(MPI, name)


def load(file: str, standin: Standin) -> Any:
    """Import a file of tests that takes `standin` for mpi4py's `MPI`."""
    setattr(mpi4py, "MPI", standin)  # noqa: B010
    try:
        module: Any = importlib.import_module(file)
    finally:
        setattr(mpi4py, "MPI", MPI)  # noqa: B010
    if file == "test_util_pkl5":  # names its own classes: those of an Exchange instead
        module.BaseTest.CommType = staticmethod(lambda ex: ex)
        ex: Any = standin.COMM_SELF
        module.BaseTest.RequestType = type(ex.isend(None, MPI.PROC_NULL))
        module.BaseTest.MessageType = type(ex.mprobe(MPI.PROC_NULL))
    return module


def each(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def run_files(tests: str, files: str, left_out: str) -> None:
    """Run the `files` in the directory `tests`, but for names that a pattern in `left_out` fits."""
    sys.path.insert(0, tests)
    patterns = json.loads(left_out)
    unused = set(patterns)
    result = unittest.TestResult()
    for file in json.loads(files):
        with ExitStack() as stack:
            alone = stack.enter_context(Exchange(MPI.COMM_SELF))
            world = stack.enter_context(Exchange(comm))
            module = load(file, Standin(alone, world))
            for test in each(unittest.defaultTestLoader.loadTestsFromModule(module)):
                fitting = {pattern for pattern in patterns if fnmatchcase(test.id(), pattern)}
                unused -= fitting
                if not fitting:
                    faulthandler.dump_traceback_later(PATIENCE, exit=True)
                    test.run(result)
                    faulthandler.cancel_dump_traceback_later()
    assert not unused, f"no test fits {unused}"
    for test, trace in [*result.failures, *result.errors]:
        print(f"rank {rank} failed {test.id()}\n{trace}", flush=True)
    failed = comm.allreduce(len(result.failures) + len(result.errors))
    if rank == 0:
        for test, reason in result.skipped:
            print(f"mpi4py skipped {test.id()}: {reason}")
        ran = result.testsRun - len(result.skipped)
        print(f"{ran} ran, {len(result.skipped)} skipped, {failed} failures", flush=True)
    assert failed == 0


if __name__ == "__main__":
    run({"run_files": run_files})
