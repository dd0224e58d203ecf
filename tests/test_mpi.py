"""Ranks share a directory and exchange keys; a failure on one rank ends well on all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fsexchange.mpi
from fsexchange import FileConnector

from .jobs import all_pass, mpirun, needs_mpi, ranks
from .processes import ROOT, python, small_tmpfs

pytestmark = needs_mpi

SAME_ON_ALL = [
    "shares_one_directory",
    "default_directory",
    "key_verbs",
    "no_key_on_one_rank",
    "every_verb_between_first_and_last",
    "futures_and_names_between_first_and_last",
    "another_root",
    "split_and_nested",
    "root_cannot_create",
    "wrong_arguments",
    "all_ranks_raise",
    "one_rank_raises_late",
    "use_after_close",
    "live_store_of_another",
    "kept_store",
]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_same_on_every_rank(n: int, tmp_path: Path) -> None:
    all_pass(n, "bodies", SAME_ON_ALL, tmp_path)


@pytest.mark.parametrize("n", [2, 4])
def test_rank_that_does_not_see_the_directory_is_named_on_all(n: int, tmp_path: Path) -> None:
    """The last rank has another tmpfs under the path of the store, as on an unshared disk."""
    blind = small_tmpfs(tmp_path, 1)
    status, out = mpirun(
        *ranks(n - 1, "not_shared", tmp_path), ":", *ranks(1, "not_shared", tmp_path, before=blind)
    )
    assert status == 0, out
    assert "passed on all ranks" in out


def test_started_as_a_plain_script(tmp_path: Path) -> None:
    """Not by `python -m mpi4py`."""
    status, out = mpirun(*ranks(4, "every_verb_between_first_and_last", tmp_path, launcher=()))
    assert status == 0, out
    assert "passed on all ranks" in out


def test_one_process_without_mpirun(tmp_path: Path) -> None:
    words = ranks(1, "every_verb_between_first_and_last", tmp_path, launcher=())[2:]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "passed on all ranks" in done.stdout


def test_spawned_ranks(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "error", "-m", "tests.ranks.spawned"]
    status, out = mpirun("-n", "1", *program, tmp_path / "store")
    assert status == 0, out
    assert "passed" in out


def test_aborted_job_leaves_a_store_that_is_not_its_own(tmp_path: Path) -> None:
    with FileConnector(tmp_path / "store") as owner:
        key = owner.put(b"x")
        body = ranks(2, "one_rank_raises_in_a_store_of_another", tmp_path)
        status, out = mpirun(*body, timeout=30)
        assert status != 0
        assert "aborts the job" in out
        assert owner.get(key) == b"x"


@pytest.mark.parametrize("n", [1, 2, 4])
def test_killed_root_ends_the_job_and_leaves_a_store_to_adopt(n: int, tmp_path: Path) -> None:
    status, out = mpirun(*ranks(n, "one_rank_is_killed", tmp_path), timeout=30)
    assert status != 0, out
    with FileConnector(tmp_path / "store") as heir:
        assert heir.owned
    assert not (tmp_path / "store").exists()


def test_the_package_shows_its_names() -> None:
    """Though they are imported only when asked for."""
    shown = subprocess.run(
        [sys.executable, "-m", "pydoc", "fsexchange.mpi"], capture_output=True, text=True
    ).stdout
    assert "class Exchange" in shown
    assert "class Request" in shown
    assert {"Exchange", "Request", "connect"} <= {*dir(fsexchange.mpi)}


def test_without_mpi4py_the_rest_works(shm_dir: Path) -> None:
    python("do_without_mpi4py", shm_dir / "store")
