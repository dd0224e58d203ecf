"""Ranks leave together, or the job ends within seconds, names the missing ranks and cleans up."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsexchange import FileConnector

from .jobs import mpirun, needs_mpi, ranks

pytestmark = needs_mpi

VERBS = [
    "bcast",
    "bcast in a room",
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


@pytest.mark.parametrize("n", [1, 2, 4])
def test_workers_may_end_before_the_master(n: int, tmp_path: Path) -> None:
    """`sys.exit()` is no failure. One rank of those that wait says for whom, once."""
    status, out = job(n, "workers_exit", tmp_path)
    assert status == 0, out
    assert "the master ends" in out
    assert "Traceback" not in out
    assert out.count("has left its Exchange, and waits") == (n > 1)
    assert n == 1 or "rank 1 (" in out
    assert n == 1 or f"1 of {n} ranks had not left after 0.3 s: 0 (" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_all_ranks_may_exit(n: int, tmp_path: Path) -> None:
    status, out = job(n, "all_exit", tmp_path)
    assert (status, out) == (0, "")
    assert not (tmp_path / "store").exists()


def test_exit_with_an_error_ends_the_job(tmp_path: Path) -> None:
    status, out = job(3, "one_exits_with_an_error", tmp_path)
    assert status != 0, out
    assert "SystemExit: the reason" in out
    assert "of 3 ranks had not left after 0.3 s: 0 (" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("launcher", [("-m", "mpi4py"), ()])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_end_without_with(n: int, launcher: tuple[str, ...], tmp_path: Path) -> None:
    """The end of the interpreter closes an Exchange; no rank loses its store before."""
    status, out = job(n, "without_with", tmp_path, launcher=launcher)
    assert status == 0, out
    assert out.count("ends\n") == n, out
    assert "Traceback" not in out
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "inner").exists()


@pytest.mark.parametrize("who", ["0", "2"])
@pytest.mark.parametrize(
    ("how", "launcher"),
    [("KeyError", ("-m", "mpi4py")), ("KeyError", ()), ("SystemExit", ("-m", "mpi4py"))],
)
def test_exception_without_with_ends_the_job(
    how: str, launcher: tuple[str, ...], who: str, tmp_path: Path
) -> None:
    """But for `sys.exit("reason")` without `-m mpi4py`, which hangs with mpi4py, too."""
    status, out = job(3, "without_with_by_an_exception", tmp_path, who, how, launcher=launcher)
    assert status != 0, out
    assert out.count("KeyError: 'the reason'" if how == "KeyError" else "the reason") == 1
    assert f"fsexchange: rank {who} (" in out
    assert "aborts the job: 2 of 3 ranks had not left after 0.3 s" in out
    assert not (tmp_path / "store").exists()


def test_abort_clears_every_store_of_the_rank(tmp_path: Path) -> None:
    """Two Exchanges, one over half of the ranks, and a store of its own."""
    status, out = job(4, "several_stores", tmp_path)
    assert status != 0, out
    assert "aborts the job" in out
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"world", "half-0", "own-0"}


def test_abort_by_the_program_clears_the_store(tmp_path: Path) -> None:
    status, out = job(2, "told_to_abort", tmp_path)
    assert status == 7, out
    assert not (tmp_path / "store").exists()


def test_forked_child_leaves_alone(tmp_path: Path) -> None:
    status, out = job(2, "forked", tmp_path)
    assert status == 0, out
    assert "passed on all ranks" in out
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_interrupt_ends_the_job(verb: str, tmp_path: Path) -> None:
    status, out = job(3, "interrupted", tmp_path, verb)
    assert status != 0, out
    assert "KeyboardInterrupt" in out
    assert not (tmp_path / "store").exists()


def test_interrupt_while_leaving_ends_the_job(tmp_path: Path) -> None:
    status, out = job(2, "interrupted_while_leaving", tmp_path)
    assert status != 0, out
    assert "aborts the job: it was interrupted" in out
    assert not (tmp_path / "store").exists()
