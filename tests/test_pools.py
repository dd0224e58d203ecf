"""An executor over a pool moves large arrays by files, and leaves none."""

from __future__ import annotations

import importlib.util
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fsexchange.connector.connector import FileConnector
from fsexchange.pools.futures import LightFuture
from fsexchange.pools.task import encode, light_task

from .jobs import mpirun, needs_mpi
from .processes import command, python, small_tmpfs, strace

METHODS = ["fork", "spawn", "forkserver"]

SCENARIOS = [
    "nested",
    "results",
    "shared",
    "errors",
    "killed",
    "cancelled",
    "shut_down",
    "refs",
    "mapped",
    "small",
    "light",
    "from_threads",
    "by_value",
]

# Threads get their arguments as they are: there are no files to be counted, and no kills.
FOR_THREADS = ["nested", "results", "errors", "cancelled", "refs", "mapped", "by_value"]


@pytest.mark.parametrize(
    ("scenario", "method"),
    [(scenario, method) for scenario in SCENARIOS for method in METHODS]
    + [(scenario, "threads") for scenario in FOR_THREADS]
    + [("shut_down_threads", "threads"), ("refused", "fork"), ("unwritten", "fork")],
)
def test_tasks_of_a_pool(scenario: str, method: str, shm_dir: Path) -> None:
    assert python("submit_to_pools", scenario, method, shm_dir / "base").stdout == "done\n"


def test_writes_are_seen_where_the_kernel_cannot_tell(shm_dir: Path) -> None:
    never = strace("-f", "-qq", "-o", "/dev/null", "-e", "inject=userfaultfd:error=EPERM")
    program = "submit_to_pools", "unwritten", "fork", shm_dir / "base"
    assert python(*program, before=never).stdout == "done\n"


@pytest.mark.parametrize("method", METHODS)
def test_full_file_system(method: str, tmp_path: Path) -> None:
    before = small_tmpfs(tmp_path / "small", 48)
    program = "submit_to_pools", "full", method, tmp_path / "small" / "base"
    assert python(*program, before=before).stdout == "done\n"


def test_futures_are_set_when_the_end_of_the_directory_fails(shm_dir: Path) -> None:
    once = strace("-f", "-qq", "-o", "/dev/null", "-e", "inject=rmdir:error=EIO:when=1")
    program = "submit_to_pools", "failing_end", "fork", shm_dir / "base"
    assert python(*program, before=once).stdout == "done\n"


class Interrupted:
    """Ctrl-C comes when the first of it is loaded."""

    loads = 0

    def __setstate__(self, state: object) -> None:
        Interrupted.loads += 1
        if Interrupted.loads == 1:
            raise KeyboardInterrupt

    def __getstate__(self) -> object:
        return 1


def test_a_result_is_there_after_an_interruption(shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as connector:
        put = connector.put
        message = encode([np.ones(9), Interrupted()], 1, put, lambda buffer: put([buffer]))
        made: Future[Any] = Future()
        future = LightFuture.become(made, connector)
        assert future is not None
        future.set_result(message)
        with pytest.raises(KeyboardInterrupt):
            future.result()
        assert future.exception() is None
        assert (future.result()[0] == 1).all()
        assert not any(connector.exists(key) for key in (message[0], *message[1]))  # type: ignore[arg-type]


def test_a_function_whose_module_is_gone_is_no_light_task(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("passing")
    exec("def found(): pass", vars(module))
    monkeypatch.setitem(sys.modules, "passing", module)
    assert light_task(module.found, "", 1) is not None
    monkeypatch.setitem(sys.modules, "passing", ModuleType("passing"))
    assert light_task(module.found, "of another executor", 1) is None


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing_sends_by_files(method: str, shm_dir: Path) -> None:
    assert python("send_between_processes", method, shm_dir / "base").stdout == "done\n"


def test_joblib_backend(shm_dir: Path) -> None:
    assert python("use_joblib", shm_dir).stdout == "done\n"


@pytest.mark.parametrize("engine", ["loky", "distributed", "parsl"])
def test_tasks_of_an_engine(engine: str, shm_dir: Path) -> None:
    """Those that are not installed are tested by `scripts/test --all`."""
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"could not import {engine!r}")
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # Parsl's programs
    done = python("submit_to_engines", engine, shm_dir, env={"PATH": path}, timeout=110)
    assert done.stdout.endswith("done\n")


@needs_mpi
def test_tasks_of_mpi_ranks(shm_dir: Path) -> None:
    words = command("submit_to_engines", "mpi", shm_dir)
    at = words.index("-m")
    status, out = mpirun("-n", "3", *words[:at], "-m", "mpi4py.futures", *words[at:])
    assert status == 0, out
    assert "done" in out
