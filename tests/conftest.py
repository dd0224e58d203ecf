from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil
import pytest

from fsexchange.filesystem import watch

from .cli import Command
from .jobs import mpirun_path
from .processes import ROOT, lacking
from .victims import Victims

# Run by mpirun, by interpreters of their own, and inside ProxyStore's own tests.
collect_ignore = ["ranks", "programs", "proxystore_plugin.py"]

# Directories on other file systems to run the contract on as well, separated by colons.
EXTRA = [name for name in os.environ.get("FSEXCHANGE_TEST_DIRS", "").split(":") if name]


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):  # a shell starts jobs in the background so
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mpi") is not None and mpirun_path is None:
        lacking("mpirun: pip install mpi4py mpich")


# Jobs of so many ranks alone are tested, if set: scripts/test --all does so with the oldest Python.
RANKS = os.environ.get("FSEXCHANGE_TEST_RANKS")

# Whether to start a Slurm cluster, if set: scripts/test --all does so with the newest Python.
SLURM = bool(os.environ.get("FSEXCHANGE_TEST_SLURM"))


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (_ranks_of(item) or 0) > 2:
            item.add_marker("wide")
    others = [item for item in items if RANKS and _ranks_of(item) not in (int(RANKS), None)]
    if not (SLURM or any("test_slurm.py" in name for name in config.args)):
        others += [item for item in items if item.get_closest_marker("slurm") is not None]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


# A directory that this process and others which run the same tests share, if set.
CLAIMS = os.environ.get("FSEXCHANGE_TEST_CLAIMS")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the files that no other process has begun with; scripts/test runs two."""
    if CLAIMS is None or session.config.option.collectonly:
        return None
    if session.testsfailed:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    for path, group in itertools.groupby(session.items, lambda item: item.path):
        if not _claim(path):
            continue
        items: list[pytest.Item | None] = [*group, None]  # a file leaves nothing set up
        for item, following in itertools.pairwise(items):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


def _claim(path: Path) -> bool:
    try:
        os.mkdir(os.path.join(str(CLAIMS), str(path.relative_to(ROOT)).replace("/", "-")))
    except FileExistsError:
        return False
    return True


def _ranks_of(item: pytest.Item) -> int | None:
    """Return how many ranks the job of a test has; None if it has no such parameter."""
    if item.get_closest_marker("mpi") is None or not isinstance(item, pytest.Function):
        return None
    n = getattr(item, "callspec", None)
    return None if n is None else n.params.get("n")


# So does scripts/test --all with the Pythons between the oldest and the newest.
IN_MEMORY_ONLY = bool(os.environ.get("FSEXCHANGE_TEST_IN_MEMORY_ONLY"))


@pytest.fixture(params=[*([] if IN_MEMORY_ONLY else [tempfile.gettempdir()]), "/dev/shm", *EXTRA])
def base_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A private directory on each file system to be tested; no temporary file may stay in it."""
    path = Path(tempfile.mkdtemp(prefix="fsexchange-test-", dir=request.param))
    yield path
    left = [str(p) for p in path.rglob("*.tmp")]
    shutil.rmtree(path)
    assert not left


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    """A private directory in memory."""
    path = Path(tempfile.mkdtemp(prefix="fsexchange-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def victims() -> Iterator[Victims]:
    """What runs programs under strace."""
    with Victims() as victims:
        yield victims


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The `fsexchange` command; it uses no store unless it is told to."""
    for name in ("FSEXCHANGE_STORE", "FSEXCHANGE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return Command(capfdbinary, monkeypatch)


@pytest.fixture(autouse=True, scope="session")
def _helpers_of_multiprocessing() -> None:
    """Start the processes that multiprocessing would start in the first test that needs them."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    _helpers.update(_children())


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Spare each test's garbage collection what is there before: tests, and imported libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """No test leaves open files or child processes behind."""
    watch._idle.clear()  # kept for the next
    files, children = _open_files(), _children()
    yield
    watch._idle.clear()
    gc.collect()
    assert _children() <= children
    assert _open_files() <= files


def _open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    # multiprocessing keeps the memory of its barriers for the next.
    return {name for name in found if "/pym-" not in name}


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)} - _helpers


# multiprocessing's own, which live as long as the test run.
_helpers: set[int] = set()
