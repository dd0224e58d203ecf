"""Partial files: what writers that were killed have left of objects in a store that goes on.

No key leads to them. An object of a `Store` says at its start how long it is, a segment in its
name, and a writer keeps a file open from its first byte to its last. So a file that is too short,
and that no process has open to write, will never be whole. It must have been so for minutes, as
this host may serve the file to others, who write. A file that is whole but not in place is closed:
nobody can tell whether its writer lives. Nor can a host tell who has a file open on another. What
is put by a connector may be a piece of an object, and whole as it is.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import NamedTuple

from fsexchange.connector import inventory, layout
from fsexchange.connector.geometry import geometry_of
from fsexchange.connector.inventory import Item
from fsexchange.connector.life import SILENT_AFTER
from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.filesystem.locks import nobody_writes
from fsexchange.serialize.format import length_of
from fsexchange.serialize.npy import NPY_HEAD, NPY_MAGIC, npy_length


class Partial(NamedTuple):
    """A file in a store that is not whole, or not in place."""

    path: str
    nbytes: int
    age: float
    """Seconds since it was last written to."""
    dead: bool
    """Whether it is proven that it will never be whole."""
    why: str
    removed: bool = False


def partials(
    items: list[Item], path: str, *, markers: bool, network: bool, remove: bool = False
) -> list[Partial]:
    """Return which of the files in the store at `path` are partial.

    Those that are just being written are not. `remove` those that are proven to stay partial.
    """
    found = []
    telling: dict[str, bool] = {}  # directories of writers
    for item in items:
        if item.kind not in ("object", "segment", "partial"):
            continue
        folder, name = os.path.split(item.filename)
        if folder not in telling:
            telling[folder] = inventory.tells_lengths(path, folder)
        temporary = layout.TEMPORARY.fullmatch(name) is not None
        if temporary:
            lack = "it is not in place"
        else:
            lack = "it has no marker" if markers and item.kind == "partial" else ""
        # Other objects were marked or renamed, or are what somebody has put.
        told = telling[folder] and (lack != "" or not markers)
        measured = temporary or told or item.kind == "segment"
        if not (lack or measured):
            continue
        with contextlib.suppress(OSError):  # whole, evicted or removed meanwhile
            one = _partial(
                f"{path}/{item.filename}",
                lack,
                measured=measured,
                temporary=temporary,
                network=network,
                remove=remove,
            )
            if one is not None:
                found.append(one)
    return found


def _partial(
    path: str, lack: str, *, measured: bool, temporary: bool, network: bool, remove: bool
) -> Partial | None:
    """Return what is partial of a file that lacks something, or that can be `measured`."""
    if not (lack or _shortage(path)):
        return None
    with nobody_writes(path) as unwritten:
        if unwritten is False and not network:
            return None
        status = os.lstat(path)
        short = _shortage(path) if measured else ""  # its writer may have gone on until just now
        if not (lack or short):
            return None
        age = max(0.0, time.time() - status.st_mtime)
        dead = True
        if not network and temporary and status.st_nlink > 1:
            why = "it is in place under its name"
        elif not network and short and unwritten and age > SILENT_AFTER:
            why = f"{short}, and no process has it open to write"
        elif not network and short and unwritten:
            dead = False
            why = f"{short}, and was written to less than {SILENT_AFTER / 60:.0f} min ago"
        else:
            dead = False
            why = f"{short or lack}; whether its writer lives cannot be known"
        if dead and remove:
            os.unlink(path)
    return Partial(path, 512 * status.st_blocks, age, dead, why, removed=dead and remove)


def _shortage(path: str) -> str:
    """Return that a file ends before its object does; empty if it does not, or cannot be known."""
    (fd,) = map(os.open, (path,), (os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,))
    try:
        size = os.fstat(fd).st_size
        if layout.SEGMENT.fullmatch(os.path.basename(path)):
            wanted = geometry_of(path).end
        else:
            start = os.pread(fd, 32, 0)
            wanted = length_of(start)
            if start.startswith(NPY_MAGIC):
                with contextlib.suppress(CorruptObjectError, SerializationError):
                    wanted = npy_length(os.pread(fd, NPY_HEAD, 0))
    finally:
        os.close(fd)
    return f"it has {size:,} of {wanted:,} bytes" if size < wanted else ""
