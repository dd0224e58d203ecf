"""Put, and make keys, with too few inodes left: each failure gives back what it took."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Callable

from fsexchange import FileConnector, StoreError

base = sys.argv[1]
connector = FileConnector(f"{base}/store")


def free() -> int:
    return os.statvfs(base).f_ffree


def refused(verb: Callable[[], object]) -> bool:
    try:
        verb()
    except StoreError as error:
        assert error.errno == errno.ENOSPC, error
        return True
    return False


verbs: list[tuple[int, Callable[[], object]]] = [  # with the inodes that each needs
    (3, lambda: connector.put(b"x")),
    (2, connector.new_key),
]
for needed, verb in verbs:
    fillers = (f"{base}/{n}" for n in itertools.count())
    made = []
    while free():
        made.append(next(fillers))
        os.close(os.open(made[-1], os.O_CREAT))
    for left in range(needed):
        for _ in range(3):
            assert refused(verb)
            # With two it has its directory, which is there for the next try.
            assert free() == left % 2, (free(), left)
        os.unlink(made.pop())
    assert not refused(verb)
    for path in made:
        os.unlink(path)
