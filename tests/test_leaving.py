"""Ranks leave together, or the job ends within seconds, names the missing ranks and cleans up."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsexchange import FileConnector

from .jobs import mpirun, needs_mpi, ranks

pytestmark = needs_mpi

VERBS = [
    "bcast",
    "gather",
    "allgather",
    "scatter",
    "alltoall",
    "barrier",
    "send",
    "isend",
    "sendrecv",
    "assemble",
    "put_blocks",
    "bcast_key",
    "allgather_keys",
]

# The verbs in which other ranks hear of it if the last of three cannot send its data.
WAITED_FOR = ["bcast", "gather", "allgather", "scatter", "alltoall", "bcast_key", "allgather_keys"]


def job(
    n: int, body: str, base: Path, *args: str, launcher: tuple[str, ...] = ("-m", "mpi4py")
) -> tuple[int, str]:
    command = ranks(n, body, base, *args, module="endings", launcher=launcher)
    return mpirun(*command, timeout=30)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_rank_that_raises_ends_the_job(when: str, verb: str, tmp_path: Path) -> None:
    status, out = job(3, when, tmp_path, verb)
    assert status != 0, out
    assert "KeyError: 'the reason'" in out
    assert "fsexchange: rank 2 (" in out
    assert "of 3 ranks had not left after 0.3 s: 0 (" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verb", WAITED_FOR)
def test_error_inside_a_verb_ends_on_all_ranks(verb: str, tmp_path: Path) -> None:
    status, out = job(3, "inside", tmp_path, verb)
    assert status != 0, out
    assert "aborts the job" not in out
    assert "fsexchange: rank 2 (" in out
    assert "RemoteError: rank 2 (" in out
    # Not all ranks get so far: mpirun ends the job at the first one that ends with an error.
    assert "goes on" in out


@pytest.mark.parametrize("launcher", [("-m", "mpi4py"), ()])
def test_missing_ranks_are_named(launcher: tuple[str, ...], tmp_path: Path) -> None:
    """With `python -m mpi4py` and without; a rank that left by an exception is not missing."""
    status, out = job(4, "two_leave", tmp_path, launcher=launcher)
    assert status != 0, out
    assert "KeyError: 'reason of 1'" in out
    assert "KeyError: 'reason of 2'" in out
    assert "rank 2 (" in out
    assert "aborts the job: 2 of 4 ranks had not left after 2 s: 0 (" in out
    assert ", 3 (" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_all_come_in_time(n: int, tmp_path: Path) -> None:
    status, out = job(n, "all_come_in_time", tmp_path)
    assert status == 0, out
    assert ("KeyError: 'the reason'" in out) == (n > 1)
    assert "aborts" not in out


@pytest.mark.parametrize("n", [1, 2, 4])
def test_killed_rank(n: int, tmp_path: Path) -> None:
    """mpirun ends the others at once, and no rank is left to clear: the next owner does."""
    status, out = job(n, "killed", tmp_path)
    assert status != 0, out
    with FileConnector(tmp_path / "store") as heir:
        assert heir.owned
    assert not (tmp_path / "store").exists()
