"""Reductions are mpi4py's, to the last bit; ranks that are out of step are told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsexchange.mpi.reductions import fold, prefix

from .jobs import all_pass, mpirun, needs_mpi, ranks


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = ["same_as_mpi4py", "results_are_private", "large_arrays", "interrupted"]
    bodies += ["one_rank_fails"]
    all_pass(n, "reductions", bodies, shm_dir)


@needs_mpi
@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("one bcast too many", "in gather of root 0, its collective no. 4, and rank "),
        ("one bcast too many at the end", "has called bcast of root 0, its collective no. 3"),
        ("other roots", "has called bcast of root 1, its collective no. 2"),
        ("alltoall", "in alltoall, its collective no. 2"),
        ("another verb", "in reduce of root 0, its collective no. 2"),
        ("scan", "in scan, its collective no. 2"),
        ("exscan", "in exscan, its collective no. 2"),
        ("assemble", "in assemble, its collective no. 2"),
        ("put_blocks", "in put_blocks, its collective no. 2"),
    ],
)
def test_ranks_out_of_step(which: str, says: str, tmp_path: Path) -> None:
    status, out = mpirun(*ranks(3, "out_of_step", tmp_path, which, module="reductions"), timeout=30)
    assert status != 0, out
    assert "MismatchError: rank " in out
    assert says in out
    assert "all ranks must call the same verbs" in out
    assert not (tmp_path / "store").exists()


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_going_on_after_a_mismatch(n: int, shm_dir: Path) -> None:
    all_pass(n, "reductions", ["goes_on_after_a_mismatch"], shm_dir)


@pytest.mark.parametrize("n", range(1, 18))
def test_order(n: int) -> None:
    """Neighbours, then pairs of them; a prefix goes back by blocks of 1, 2, 4, ..."""

    def pair(one: str, other: str) -> str:
        return f"({one}{other})"

    letters = [chr(ord("a") + i) for i in range(n)]
    made = fold(letters, pair)
    assert made.replace("(", "").replace(")", "") == "".join(letters)
    assert n != 7 or made == "(((ab)(cd))((ef)g))"
    made = prefix(letters, pair, without_own=False)
    assert made.replace("(", "").replace(")", "") == "".join(letters)
    assert n != 4 or made == "((ab)(cd))"
    before = prefix(letters, pair, without_own=True)
    assert n == 1 or before.replace("(", "").replace(")", "") == "".join(letters[:-1])
    assert n > 1 or before is None
