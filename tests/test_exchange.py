"""An Exchange does what a communicator does, leaves nothing behind and hangs nobody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fsexchange.mpi.slab import IN_USE

from .jobs import all_pass, more_ranks, needs_mpi, passes
from .processes import little_memory, needs_room, small_tmpfs

pytestmark = needs_mpi


@pytest.mark.parametrize("n", [1, 2, 3, 4, *more_ranks(8)])
def test_same_as_mpi4py(n: int, shm_dir: Path) -> None:
    passes(n, "verbs", "same_as_mpi4py", shm_dir, timeout=110)


@pytest.mark.parametrize("n", [1, 2, 3, 4, *more_ranks(8)])
def test_hundred_mebibytes(n: int, shm_dir: Path) -> None:
    needs_room(shm_dir, 4)
    passes(n, "verbs", "hundred_mebibytes", shm_dir, timeout=110)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = [
        "results_are_private",
        "same_results_by_every_way_of_a_bcast",
        "packets_are_used_again",
        "what_was_sent_may_change_at_once",
        "any_source_and_tag",
        "users_own_messages_do_not_mix",
        "sender_may_compute_on",
        "objects_in_slots",
        "slabs_without_descriptors",
        "failures_beside_slots",
        "some_cannot_be_loaded",
        "interrupted_while_it_waits",
        "interrupted_between_loads",
        "interrupted_before_it_fills_slots",
        "interrupted_while_filling_slots",
        "sent_to_oneself",
        "undelivered_messages_end_with_the_exchange",
        "dropped_receives_write_nowhere",
        "careless_use",
        "keys_of_objects_that_stay",
        "classes_of_the_script",
        "local_store",
        "one_rank_fails",
        "errors_of_all_kinds",
        "interrupted_while_writing",
        "interrupted_while_waiting",
        "interrupted_while_sending",
        "use_after_close",
    ]
    all_pass(n, "verbs", bodies, shm_dir)


@pytest.mark.wide
def test_loops_stay_bounded(shm_dir: Path) -> None:
    out = passes(4, "verbs", "loops_stay_bounded", shm_dir, timeout=180)
    assert len(re.findall(r"bcasts of \d+ bytes: at most \d+ files", out)) == 3
    print(out)


@pytest.mark.wide
@pytest.mark.skipif(not IN_USE, reason="without C much waits in the sender's memory")
def test_receiver_may_lag(shm_dir: Path) -> None:
    passes(2, "verbs", "receiver_may_lag", shm_dir)


@pytest.mark.wide
def test_head_to_head(shm_dir: Path) -> None:
    needs_room(shm_dir, 6)
    passes(2, "verbs", "head_to_head", shm_dir)


@pytest.mark.parametrize("hosts", [1, 2])
def test_handler_that_raises_in_a_collective(hosts: int, shm_dir: Path) -> None:
    before = ["env", f"FSEXCHANGE_TEST_RANKS_OF_A_HOST={2 // hosts}"]
    passes(2, "verbs", "interrupted_once_packets_are_out", shm_dir, before=before)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_full_disk_on_one_rank(n: int, tmp_path: Path) -> None:
    before = small_tmpfs(tmp_path / "small", 40)
    passes(n, "verbs", "full_disk", tmp_path, before=before)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_host_without_memory_to_share(n: int, tmp_path: Path) -> None:
    out = passes(n, "verbs", "full_memory", tmp_path)
    assert out.count("ranks of a host cannot share") == (2 if n > 1 else 0)


@pytest.mark.parametrize("n", [2, 4])
def test_rank_without_address_space(n: int, tmp_path: Path) -> None:
    passes(n, "verbs", "short_of_address_space", tmp_path)


def test_control_group_limits_memory(tmp_path: Path) -> None:
    """No rank is killed for want of memory."""
    with little_memory(600) as before:
        out = passes(2, "verbs", "short_of_memory", tmp_path, before=before)
    assert "ranks of a host cannot share" in out
