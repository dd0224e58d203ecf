"""A host holds one copy of what its ranks share, and no collective asks the shared directory."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from .jobs import all_pass, more_ranks, mpirun, needs_mpi, passes, ranks
from .processes import needs_room, strace

pytestmark = needs_mpi

#: Of the verbs whose result all ranks share, and of the others.
TO_ALL, TO_ONE = ("bcast", "allgather", "assemble", "allreduce"), ("gather", "scatter", "alltoall")


def as_if_on(hosts: int, n: int) -> list[str]:
    """Return what to run ranks with so that they take themselves for ranks of several hosts."""
    return ["env", f"FSEXCHANGE_TEST_RANKS_OF_A_HOST={n // hosts}"]


@pytest.mark.parametrize("n", [4])
def test_every_verb_between_two_hosts(n: int, shm_dir: Path) -> None:
    bodies = [
        "same_as_mpi4py",
        "results_are_private",
        "what_was_sent_may_change_at_once",
        "keys_of_objects_that_stay",
        "careless_use",
        "local_store",
        "one_rank_fails",
        "errors_of_all_kinds",
        "interrupted_while_it_waits",
        "interrupted_while_waiting",
        "stopped_while_passing_on",
    ]
    all_pass(n, "verbs", bodies, shm_dir, before=as_if_on(2, n))


@pytest.mark.parametrize("n", [4])
def test_a_hundred_mebibytes_between_two_hosts(n: int, shm_dir: Path) -> None:
    needs_room(shm_dir, 4)
    passes(n, "verbs", "hundred_mebibytes", shm_dir, timeout=110, before=as_if_on(2, n))


@pytest.mark.parametrize("n", [4])
def test_blocks_and_reductions_between_two_hosts(n: int, shm_dir: Path) -> None:
    before = as_if_on(2, n)
    bodies = ["like_concatenate", "decompositions", "mismatches", "of_many_pages"]
    all_pass(n, "blocks", bodies, shm_dir / "blocks", before=before)
    bodies = ["same_as_mpi4py", "results_are_private", "large_arrays", "interrupted"]
    bodies += ["one_rank_fails"]
    all_pass(n, "reductions", bodies, shm_dir / "reductions", before=before)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("n", [4])
def test_a_host_holds_one_copy(n: int, hosts: int, shm_dir: Path) -> None:
    """Of what all its ranks have read; and of what one rank receives, nobody holds another."""
    needs_room(shm_dir, 2)
    before = [*as_if_on(hosts, n), "MALLOC_MMAP_THRESHOLD_=1000000"]  # else it keeps what is freed
    out = passes(n, "hosts", "copies", shm_dir, before=before)
    print(out)
    found = re.findall(r"(\w+): ([0-9.]+) objects", out)
    held = {verb: float(objects) for verb, objects in found}
    assert tuple(held) == TO_ALL + TO_ONE
    data = {"bcast": 1, "allreduce": 1, "alltoall": n * n}
    for verb, objects in held.items():
        wanted = data.get(verb, n) * (hosts if verb in TO_ALL else 1)
        assert 0.95 * wanted <= objects <= 1.1 * wanted + 0.2, (verb, objects)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("n", [2, 4, *more_ranks(8)])
def test_no_collective_asks_the_shared_directory(n: int, hosts: int, tmp_path: Path) -> None:
    """A host makes one file in memory for one verb, and each of its ranks opens it at most once."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "shared").mkdir(mode=0o700)
    before = as_if_on(hosts, n) + strace("-qq", "-y", "-ff", "-o", str(logs / "of"))
    before += ["-e", "trace=%file,%desc,memfd_create"]
    words = ranks(n, "calls", tmp_path / "shared", module="hosts", before=before)
    status, out = mpirun(*words, timeout=110)
    assert status == 0, out
    assert "calls passed on all ranks" in out
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for log in logs.iterdir():
        verb = None
        for line in log.read_text(errors="replace").splitlines():
            mark = re.match(r'access\("/(begin (.*?)|end)"', line)
            if mark:
                verb = mark[2]
                counts[verb or "end"]["ranks"] += 1
            elif verb:
                counts[verb].update(_kinds(line, str(tmp_path)))
    assert counts.pop("end")["ranks"] == n * len(counts)
    assert len(counts) == 2 * len(TO_ALL + TO_ONE)
    made: dict[str, int] = {}
    for verb, count in counts.items():
        assert count.pop("ranks") == n
        made[verb], opened = count.pop("create", 0), count.pop("open", 0)
        if verb.startswith("small"):
            assert (made[verb], opened) == (0, 0), verb
        elif verb.endswith(TO_ALL) and hosts < n:
            assert opened == n, (verb, opened)
        assert made[verb] <= hosts, verb
        assert opened <= n, (verb, opened)
        assert not count, (verb, count)
    if hosts < n <= 4:  # what they share is kept, and used again
        assert (made["large allgather"], made["large assemble"]) == (hosts, 0)


def _kinds(line: str, directory: str) -> list[str]:
    """Return what a system call does to the shared directory, or to memory of a host."""
    if directory in line:
        return [line]
    if line.startswith("memfd_create("):
        return ["create"]
    if re.match(r'open\w*\(.*"/proc/\d+/fd/', line):
        return ["open"]
    return [line] if re.match(r"(unlink|rename|link|mkdir|rmdir)", line) else []
