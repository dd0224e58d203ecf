"""Sends and receives match as MPI matches them, in each way that a large object can travel."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from .jobs import all_pass, mpirun, needs_mpi, passes
from .processes import small_tmpfs

pytestmark = needs_mpi

#: On one host; as if each rank had a host of its own; and with every large `send` as an `ssend`.
#: And "mixed": the third rank and the fourth have nothing in C.
WAYS = ["host", "hosts", "crowd"]


@pytest.mark.parametrize(("way", "n"), [*itertools.product(WAYS, [1, 2, 4]), ("mixed", 4)])
def test_in_each_way(way: str, n: int, shm_dir: Path) -> None:
    bodies = [
        "wait_for_send_first",
        "collectives_in_between",
        "halo",
        "what_was_sent_may_change_at_once",
        "in_the_order_they_were_sent",
        "first_posted_is_first_served",
        "every_way_to_send_and_receive",
        "send_that_fails_has_sent_nothing",
        "nothing_is_left_in_a_kept_store",
        "more_than_a_slab_holds",
        "handler_that_raises",
        "handler_that_sends",
        "alarm_while_it_waits",
        "handler_that_raises_in_a_receive",
    ]
    all_pass(n, "matching", bodies, shm_dir, before=["env", f"FSEXCHANGE_TEST_WAY={way}"])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = [
        "synchronous_send_waits",
        "all_send_first",
        "counts_of_objects",
        "communicators_of_an_exchange",
        "small_part_of_a_message",
        "threads",
        "others_end_beside_a_thread",
        "classes_go_by_reference",
    ]
    all_pass(n, "matching", bodies, shm_dir)


@pytest.mark.parametrize("n", [1, 3])
def test_too_many_of_them(n: int, shm_dir: Path) -> None:
    passes(n, "matching", "too_many_of_them", shm_dir, timeout=110)


@pytest.mark.parametrize("n", [2, 4])
def test_between_ranks(n: int, shm_dir: Path) -> None:
    bodies = [
        "interrupted_while_copying",
        "who_is_about_to_receive",
        "send_with_another_protocol",
        "fast_producer",
        "sendrecv_that_cannot_receive",
        "collector_after_a_failure",
        "what_is_sent_to_nobody_takes_no_room",
    ]
    all_pass(n, "matching", bodies, shm_dir)


def test_handler_that_raises_between_two_ranks(shm_dir: Path) -> None:
    passes(2, "matching", "handler_that_raises_in_sendrecv", shm_dir)


@pytest.mark.parametrize("way", ["host", "hosts"])
@pytest.mark.parametrize("n", [1, 2])
def test_crowd_ends(way: str, n: int, shm_dir: Path) -> None:
    before = ["env", f"FSEXCHANGE_TEST_WAY={way}"]
    passes(n, "matching", "crowd_that_has_ended", shm_dir, before=before)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_full_disk(n: int, tmp_path: Path) -> None:
    passes(n, "matching", "full_disk", tmp_path, before=small_tmpfs(tmp_path / "small", 4))


def test_classes_where_there_is_no_file(shm_dir: Path) -> None:
    """With `python -c` they are the same ones on all ranks."""
    program = f"""
from fsexchange.mpi import Exchange
class Own: pass
with Exchange(store_dir="{shm_dir}/store") as ex:
    assert type(ex.sendrecv(Own(), (ex.rank + 1) % ex.size)) is Own
print("passed")
"""
    status, out = mpirun("-n", "2", sys.executable, "-m", "mpi4py", "-c", program)
    assert status == 0, out
    assert out.count("passed") == 2
