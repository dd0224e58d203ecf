"""What can be counted exactly: system calls a verb, copies in memory, bytes in a pickle."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .processes import needs_room, python, strace

CALLS = """
import os, sys
from fsexchange import FileConnector
connector = FileConnector(sys.argv[1] + "/store")
small, large = bytes(1024), bytes(64 << 20)
for _ in range(16):  # the first have files of their own
    connector.put(small)
verbs = {
    "put": lambda: connector.put(small, alone=True),
    "put of pieces": lambda: connector.put([small, small, small], alone=True),
    "put of 64 MiB": lambda: connector.put(large),
    "get of 1 KiB": lambda: connector.get(key),
    "get of 64 KiB": lambda: connector.get(middling),
    "get of 64 MiB": lambda: connector.get(big),
    "exists": lambda: connector.exists(key),
    "evict": lambda: connector.evict(key),
    "put, appended": lambda: connector.put([small, small, small]),
    "get, appended": lambda: connector.get(shared),
    "exists, appended": lambda: connector.exists(shared),
    "evict, appended": lambda: connector.evict(shared),
    "put_batch of 10,000": lambda: connector.put_batch([small] * 10_000),
    "get_batch of 10,000": lambda: connector.get_batch(batch),
    "evict_batch of 10,000": lambda: connector.evict_batch(batch),
}
for name, verb in verbs.items():
    for turn in "warm-up", "count":
        key, big = connector.put(small, alone=True), connector.put(large)
        shared, batch = connector.put(small), connector.put_batch([small] * 10_000)
        connector.get_batch([shared, *batch])
        middling = connector.put(bytes(1 << 16))
        os.access(f"/{turn} {name}", 0)
        kept = verb()
        os.access("/end", 0)
        del kept
"""

LIMITS = {
    "put": 3,
    "put of pieces": 3,
    "put of 64 MiB": 3,
    "get of 1 KiB": 3,
    "get of 64 KiB": 4,
    "get of 64 MiB": 4,
    "exists": 1,
    "evict": 1,
    "put, appended": 2,
    "get, appended": 2,
    "exists, appended": 1,
    "evict, appended": 2,
    "put_batch of 10,000": 12,  # open, a writev for each 1,024 objects, close
    "get_batch of 10,000": 20,  # two for each MiB
    "evict_batch of 10,000": 5,
}


def test_system_calls_a_verb(shm_dir: Path) -> None:
    log = shm_dir / "strace.log"
    python(CALLS, shm_dir, before=strace("-qq", "-o", str(log)))
    counted: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in log.read_text().splitlines():
        mark = re.match(r'access\("/(.*?)"', line)
        if mark is not None:
            current = counted.setdefault(mark[1][6:], []) if "count" in mark[1] else None
        elif current is not None and not re.match(r"(brk|munmap|mmap.*MAP_ANONYMOUS)", line):
            current.append(line)  # but for what malloc does
    assert {name: len(calls) for name, calls in counted.items()} == LIMITS, counted


@pytest.mark.parametrize("how", ["bytes", "serialize"])
def test_put_and_get_of_a_gibibyte_take_no_memory(how: str, shm_dir: Path) -> None:
    """Peak memory rises by less than 1 % of the array; the result is writable, and one's own."""
    needs_room(shm_dir, 3)
    python(
        """
        import resource, sys
        import numpy as np
        from fsexchange import FileConnector
        from fsexchange.serialize import deserialize, serialize
        how, path = sys.argv[1:]
        to_frames = serialize if how == "serialize" else lambda array: array
        from_buffer = deserialize if how == "serialize" else lambda b: np.frombuffer(b)
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        def private():  # without the pages of files, which all readers share
            with open("/proc/self/status") as status:
                return int(next(l for l in status if l.startswith("RssAnon")).split()[1]) << 10
        connector = FileConnector(path)
        warm = from_buffer(connector.get(connector.put(to_frames(np.ones(1 << 18)))))
        array = np.ones(1 << 27)
        limit = array.nbytes // 100
        before = peak()
        key = connector.put(to_frames(array))
        assert peak() - before < limit, ("put", peak() - before)
        before = peak()
        mine, other = (from_buffer(connector.get(key)) for _ in range(2))
        assert peak() - before < limit, ("get", peak() - before)
        assert mine.nbytes == 1 << 30 and mine.flags.writeable
        del array
        before = private()
        mine[: 1 << 10] = 7
        mine[-1] = 7
        assert private() - before < limit
        assert other[0] == other[-1] == 1
        third = from_buffer(connector.get(key))
        assert third[0] == third[-1] == 1
        assert mine[0] == mine[-1] == 7 and mine[1 << 20] == 1
        """,
        how,
        shm_dir / "store",
    )


def test_import_needs_neither_mpi_nor_what_is_optional() -> None:
    python(
        """
        import sys
        import fsexchange
        late = {"cloudpickle", "mpi4py", "psutil", "pandas", "proxystore", "matplotlib"}
        assert not late & set(sys.modules)
        """
    )
