"""Remove what fsexchange made in a directory, and nothing else."""

from __future__ import annotations

import errno
import os
import time
import warnings

from fsexchange import files, layout
from fsexchange.keys import FileKey, check_key

# Seconds for writers still at work, and for removed files still in use.
_PATIENCE = 10.0


def remove_store(path: str) -> None:
    """Remove the store at `path` and, if nothing of others is in it, the directory.

    Comes back for writers that were making a file meanwhile. What remains is named in a warning.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        foreign, busy = remove_objects(path)
        if not foreign and not busy:
            files.unlink(layout.record(path))
            try:
                os.rmdir(path)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    return  # a mount point, or a parent that is not ours: empty is all we can do
        elif not busy or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    files.unlink(layout.record(path))
    left = sorted(foreign + busy)
    warnings.warn(
        f"{path} was not removed: it holds what fsexchange did not make "
        f"({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})",
        stacklevel=4,
    )


def remove_objects(path: str) -> tuple[list[str], list[str]]:
    """Remove all that fsexchange made in `path` but its record; return what remains.

    That is, names of others, and names that will go when whoever uses them is done.
    """
    foreign: list[str] = []
    busy: list[str] = []
    for name in files.listing(path):
        if layout.WRITER.fullmatch(name):
            for left in _remove_writer(path, name):
                passing = layout.IN_WRITER.fullmatch(left) or left.startswith(layout.IN_USE)
                (busy if passing else foreign).append(f"{name}/{left}")
    for name in files.listing(f"{path}/{layout.NAMES}"):
        files.unlink(f"{path}/{layout.NAMES}/{name}")
    for name in files.listing(path):
        if name == layout.NAMES:
            try:
                os.rmdir(f"{path}/{name}")
            except OSError:
                busy.append(name)  # somebody is naming an object, or one of the files is in use
        elif layout.BESIDE_WRITERS.fullmatch(name):
            files.unlink(f"{path}/{name}")
        elif name.startswith(layout.IN_USE):
            busy.append(name)
        elif f"{path}/{name}" != layout.record(path) and not layout.WRITER.fullmatch(name):
            foreign.append(name)
    return foreign, busy


def _remove_writer(path: str, writer: str) -> list[str]:
    """Remove a writer's directory; return the names in it if it cannot be."""
    try:
        names = os.listdir(f"{path}/{writer}")
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        if name.startswith(layout.CLAIM):
            plain = check_key(FileKey(name[len(layout.CLAIM) :]))
            files.unlink(f"{path}/{plain}.ready")
            files.unlink(f"{path}/{plain}")
        if layout.IN_WRITER.fullmatch(name):
            files.unlink(f"{path}/{writer}/{name}")
    try:
        os.rmdir(f"{path}/{writer}")
    except OSError:
        return list(files.listing(f"{path}/{writer}"))
    return []
