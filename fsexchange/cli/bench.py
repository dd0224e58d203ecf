"""`fsexchange bench`: how fast a store is here, beside plain files."""

from __future__ import annotations

import errno
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import click

from fsexchange.cli import output
from fsexchange.cli.options import json_option
from fsexchange.cli.progress import progress

_SIZES = (1 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20)
_PAGE = 4096

# Rounds of each size at most, and in how many parts the room that is free may be used.
_ROUNDS = 200
_PARTS = 8


class Medians(NamedTuple):
    """Median seconds for one size."""

    nbytes: int
    rounds: int
    put: float
    save: float
    get: float
    load: float


@click.command("bench")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="How long to measure, about.",
)
@json_option
def command(directory: str | None, seconds: float, as_json: bool) -> None:
    """Measure put and get of arrays beside numpy's save and load.

    All are measured in turn, in a directory that it makes in DIR and removes; without DIR where
    stores are made for which none is named. Times of get and load include a read of each page.
    Uses at most an eighth of the free space and of the free memory.
    """
    from fsexchange.cli.trials import scratch_in
    from fsexchange.connector.default import default_base
    from fsexchange.connector.place import place
    from fsexchange.errors import StoreError
    from fsexchange.filesystem.advice import store_errors
    from fsexchange.filesystem.kinds import find_filesystem

    path = place(directory) if directory else default_base()
    if not os.path.isdir(path):
        raise click.ClickException(f"there is no directory {path}; make it, or name another")
    with store_errors("measure in", path):
        room = _room(path)
        sizes = [nbytes for nbytes in _SIZES if 2 * nbytes <= room // _PARTS]
        if not sizes:
            raise StoreError(
                f"{path} has room for {output.size(room)}, in space or memory, of which an eighth "
                "is used: free some, or name another directory",
                path=path,
                errno=errno.ENOSPC,
            )
        with progress(f"measuring in {path}"), scratch_in(path) as scratch:
            found = list(_measure(scratch, sizes, seconds))
    kind = find_filesystem(path).kind
    if as_json:
        rows = [medians._asdict() for medians in found]
        output.print_json({"directory": path, "file_system": kind, "sizes": rows})
        return
    output.print_table(
        ("SIZE>", "PUT>", "NP.SAVE>", "TIMES>", "GET>", "NP.LOAD>", "TIMES>"),
        [
            (
                output.size(m.nbytes),
                _for_people(m.put),
                _for_people(m.save),
                f"{m.save / m.put:.1f}",
                _for_people(m.get),
                _for_people(m.load),
                f"{m.load / m.get:.1f}",
            )
            for m in found
        ],
    )
    output.note(f"medians in {path} ({kind}); TIMES: as fast as numpy's")
    skipped = len(_SIZES) - len(found)
    if skipped:
        why = "free space or memory" if len(found) == len(sizes) else "time"
        output.note(f"{output.count(skipped, 'larger size')} left out: there is not enough {why}")


def _room(path: str) -> int:
    """Return how many bytes of space are free, or of memory, if that is less."""
    from fsexchange.cli.mounts import memory_left

    status = os.statvfs(path)
    room = [status.f_bavail * status.f_frsize]
    left = memory_left()
    if left is not None:
        room.append(left)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            room += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvail")]
    except OSError:
        pass
    return min(room)


def _measure(scratch: str, sizes: list[int], seconds: float) -> Iterator[Medians]:
    """Yield the medians of each size; those for which time is lacking are left out."""
    from fsexchange.store import Store

    with Store(f"{scratch}/store") as store:
        end = time.monotonic() + seconds
        last = 0.0
        for number, nbytes in enumerate(sizes):
            left = end - time.monotonic()
            # A round of the next size takes 16 times as long, at most.
            if number and left < 16 * last:
                return
            medians, last = _of_size(store, scratch, nbytes, left / (len(sizes) - number))
            yield medians


def _of_size(store: Any, scratch: str, nbytes: int, seconds: float) -> tuple[Medians, float]:
    """Return the medians, and how long a round took."""
    import numpy as np

    array = np.random.default_rng(0).integers(0, 1 << 62, nbytes // 8)
    path = f"{scratch}/plain.npy"
    times: list[list[float]] = [[], [], [], []]

    def timed(n: int, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        times[n].append(time.perf_counter() - begin)
        return result

    def get(read: Callable[[], Any]) -> None:
        if read()[:: _PAGE // 8].sum() != wanted:
            raise click.ClickException(f"an array in {scratch} is not what was written")

    wanted = array[:: _PAGE // 8].sum()
    begin = time.monotonic()
    for done in range(1, _ROUNDS + 1):
        key = timed(0, partial(store.put, array))
        timed(1, partial(np.save, path, array))
        timed(2, partial(get, partial(store.get, key)))
        timed(3, partial(get, partial(np.load, path)))
        store.evict(key)
        os.unlink(path)
        passed = time.monotonic() - begin
        if passed + passed / done > seconds:
            break
    put, save, get_, load = map(statistics.median, times)
    return Medians(nbytes, done, put, save, get_, load), passed / done


def _for_people(seconds: float) -> str:
    """Return a short time in three digits or so."""
    for unit, per_second in (("us", 1e6), ("ms", 1e3)):
        if seconds * per_second < 1000:
            number = seconds * per_second
            return f"{number:.1f} {unit}" if number < 100 else f"{number:.0f} {unit}"
    return f"{seconds:.2f} s"
