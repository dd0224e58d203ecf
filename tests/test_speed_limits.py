"""What can be counted exactly: system calls a verb, copies in memory, bytes in a pickle."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .processes import needs_room, python, strace

LIMITS = {
    "put": 3,
    "put of pieces": 3,
    "put of 64 MiB": 3,
    "get of 1 KiB": 3,
    "get of 64 KiB": 3,
    "get of 64 MiB": 4,
    "get of an evicted object": 4,  # open, and whether the store is there
    "exists": 1,
    "evict": 1,
    "get from a segment": 2,
    "exists in a segment": 1,
    "evict from a segment": 2,
    "put_batch of 10,000": 12,  # open, a writev for each 1,024 objects, close
    "get_batch of 10,000": 20,  # two for each MiB
    "evict_batch of 10,000": 5,
    "get_batch of 100 arrays and 2 of 80 kB": 8,  # two, and three for each of those
}


def test_system_calls_a_verb(shm_dir: Path) -> None:
    log = shm_dir / "strace.log"
    python("count_system_calls", shm_dir, before=strace("-qq", "-o", str(log)))
    counted: dict[str, list[str]] = {}
    pages: dict[str, int] = {}
    current: list[str] | None = None
    for line in log.read_text().splitlines():
        mark = re.match(r'access\("/(.*?)"', line)
        if mark is not None:
            name = mark[1][6:]
            current = counted.setdefault(name, []) if "count" in mark[1] else None
        elif current is not None and re.match(r"mincore|madvise.*POPULATE|madvise.*0x17", line):
            pages[name] = pages.get(name, 0) + 1
        elif current is not None and not re.match(r"(brk|munmap|mmap.*MAP_ANONYMOUS)", line):
            current.append(line)  # but for what malloc does
    assert {name: len(calls) for name, calls in counted.items()} == LIMITS, counted
    # To read what is not small asks for the pages of its memory.
    for name, count in pages.items():
        assert "KiB" in name or "kB" in name
        assert count <= 2 * sum("readv(" in call for call in counted[name])


@pytest.mark.parametrize("how", ["bytes", "serialize"])
def test_put_and_get_of_a_gibibyte_take_no_memory(how: str, shm_dir: Path) -> None:
    """Peak memory rises by less than 1 % of the array; the result is writable, and one's own."""
    needs_room(shm_dir, 3)
    python("measure_a_gibibyte", how, shm_dir / "store")


def test_import_needs_neither_mpi_nor_what_is_optional() -> None:
    python("import_little")
