"""A large object goes to a rank of the same host by its memory, and elsewhere where it must."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fsexchange.mpi.slab import IN_USE

from .jobs import all_pass, mpirun, needs_mpi, passes, ranks
from .processes import little_memory, small_tmpfs, strace

pytestmark = [
    needs_mpi,
    pytest.mark.skipif(not IN_USE, reason="without C MPI carries what goes by other ways here"),
]


@pytest.mark.parametrize("n", [2, 4])
def test_no_send_on_one_host_asks_the_shared_directory(n: int, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "shared").mkdir(mode=0o700)
    before = strace("-qq", "-y", "-ff", "-o", str(logs / "of"), "-e", "trace=%file,%desc")
    words = ranks(n, "calls", tmp_path / "shared", module="ways", before=before)
    status, out = mpirun(*words, timeout=110)
    assert status == 0, out
    assert "calls passed on all ranks" in out
    made: Counter[str] = Counter()
    for log in logs.iterdir():
        text = log.read_text(errors="replace")
        marked = re.search(r'access\("/begin".*?\n(.*)\n[^\n]*access\("/end"', text, re.DOTALL)
        if marked is None:
            continue
        assert str(tmp_path) not in marked[1]
        assert not re.search(r"^(unlink|rename|link|mkdir)", marked[1], re.MULTILINE)
        made["ranks"] += 1
        made["memory"] += marked[1].count("memfd_create(")
        made["opened"] += len(re.findall(r'open\w*\(.*"/proc/\d+/fd/', marked[1]))
    assert made.pop("ranks") == n
    assert made["memory"] == n
    assert made["opened"] <= 3 * n  # and the slabs of both neighbours, for the first time


@pytest.mark.parametrize("hosts", ["one", "several"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_each_way_in_its_turn(n: int, hosts: str, tmp_path: Path) -> None:
    before = small_tmpfs(tmp_path / "small", 40)
    if hosts == "several":
        before = ["env", "FSEXCHANGE_TEST_RANKS_OF_A_HOST=1", *before]
    passes(n, "ways", "each_in_its_turn", tmp_path, before=before, timeout=110)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_many_wait(n: int, tmp_path: Path) -> None:
    all_pass(n, "ways", ["many_wait", "never_received"], tmp_path)


def test_control_group_limits_memory(tmp_path: Path) -> None:
    with little_memory(600) as before:
        passes(2, "ways", "short_of_memory", tmp_path, before=before)
