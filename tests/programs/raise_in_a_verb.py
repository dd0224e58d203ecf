"""Call a verb again and again, and a signal handler that raises at a random moment of each.

Print how often it raised, and how many descriptors, files and mappings are left over.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from fsexchange import FileConnector, WaitTimeoutError
from fsexchange.filesystem.markers import READY


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """Raised by the handler."""


def handler(*_: object) -> None:
    raise Interrupted


store, verb, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
connector = FileConnector(store, markers=verb.endswith("markers"))
small, middling, large = (connector.put(bytes(size)) for size in (100, 70_000, 1 << 20))
later = connector.new_key()
keys = [small, middling, large, later]
segments = [connector.put_batch([b"one", b"two"]) for _ in range(40)]  # not all stay open
batches = list(segments)
turn = 0


def get_from_the_next_segment() -> None:
    global turn
    turn += 1
    connector.get(segments[turn % 40][0])


def set_once() -> None:
    keys.extend(map(connector.new_key, (None,)))
    connector.set(keys[-1], b"new", write_once=True)


def wait_in_vain() -> None:
    with contextlib.suppress(WaitTimeoutError):
        connector.wait(later, 1e-4)


def interrupted(work: Callable[[], object], seconds: float) -> bool:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # CPython up to 3.11 may forget for a while that a handler is due: `take_gil` computes
            # anew whether one is, and a signal in the middle of that is not seen.
            time.sleep(0)
    except Interrupted:
        return True
    return False


def open_files() -> int:
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return len([link for link in links if link.startswith(store)])


# Keys are collected without a moment at which they are neither in the file nor in the list.
verbs: dict[str, Callable[[], object]] = {
    "put": lambda: keys.extend(map(connector.put, (b"new",))),
    "put_batch": lambda: batches.extend(map(connector.put_batch, ([b"new", b"too"],))),
    "get": lambda: connector.get(small),
    "get of 70,000": lambda: connector.get(middling),
    "get of 1 MiB": lambda: connector.get(large),
    "get_part": lambda: connector.get_part(large, 1, 1000),
    "get from a segment": get_from_the_next_segment,
    "set": lambda: connector.set(later, b"new"),
    "set once": set_once,
    "exists": lambda: connector.exists(later),
    "wait": lambda: connector.wait(small),
    "wait in vain": wait_in_vain,
    "put with markers": lambda: keys.extend(map(connector.put, (b"new",))),
    "set with markers": lambda: connector.set(later, b"new"),
}
work = verbs[verb]
times = []
for _ in range(100):
    start = time.perf_counter()
    work()
    times.append(time.perf_counter() - start)
longest = 1.5 * sorted(times)[50]  # the end of the verb counts, too
# Python's own files are closed when they are dropped, and say so.
warnings.filterwarnings("ignore", "unclosed file .*/proc/self/mountinfo", ResourceWarning)
signal.signal(signal.SIGALRM, handler)
moments = random.Random(1)
raised = sum(interrupted(work, moments.uniform(1e-6, longest)) for _ in range(rounds))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
named = {key.filename for key in [*keys, *(key for batch in batches for key in batch)]}
left: list[str] = []
for folder, _folders, found in os.walk(store):
    for name in found:
        path = os.path.relpath(f"{folder}/{name}", store).removesuffix(READY)
        if path not in named and (name[0] != "." or name.endswith(".tmp")):
            left.append(path)
connector.close()  # the record, and segments that are open for the next
print(raised, open_files(), len(left), Path("/proc/self/maps").read_text().count(store))
