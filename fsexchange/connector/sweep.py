"""Remove what fsexchange made in a directory, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import warnings

from fsexchange.connector import layout
from fsexchange.connector.keys import FileKey, checked
from fsexchange.connector.segment import retire
from fsexchange.errors import InvalidKeyError
from fsexchange.filesystem import files
from fsexchange.filesystem.publish import READY

# Seconds for writers still at work, and for removed files still in use.
_PATIENCE = 10.0


def remove_store(path: str, store_id: str) -> None:
    """Remove the store at `path` and, if nothing of others is in it, the directory.

    Writers that make files meanwhile are swept again. A warning names what remains.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        foreign, busy = remove_objects(path)
        if not busy or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for name in foreign:
        if "/" in name:  # a user's file in a writer's directory, which becomes the user's
            files.unlink(f"{path}/{os.path.dirname(name)}/{layout.SIGNATURE}")
    # Where there is no gate somebody may open another store in this place from here on: sweep
    # nothing any more, but what has this store's id in its name.
    files.unlink(layout.record(path))
    files.unlink(layout.ending(path, store_id))  # last: while it is there the next goes on here
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                return  # a mount point, or a parent that is not ours: empty is all we can do
        left = sorted(files.listing(path))
        if os.path.basename(layout.record(path)) in left:
            return  # another process has opened one
        if foreign or busy or time.monotonic() > deadline:
            break
        time.sleep(0.01)  # another process is about to, or a late writer removes its own directory
    left = sorted(foreign + busy) or left
    warnings.warn(
        f"{path} was not removed: it holds what fsexchange did not make "
        f"({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})",
        stacklevel=4,
    )


def remove_objects(path: str) -> tuple[list[str], list[str]]:
    """Remove all that fsexchange made in `path`, except what says that it ends; return the rest.

    These are the names of foreign files, and names that go when their users are done.
    """
    foreign: list[str] = []
    busy: list[str] = []
    for name in files.listing(path):
        if layout.WRITER.fullmatch(name) or layout.LEAVING.fullmatch(name):
            for left in _remove_writer(path, name):
                passing = layout.IN_WRITER.fullmatch(left) or left.startswith(layout.IN_USE)
                (busy if passing else foreign).append(f"{name}/{left}" if left else name)
    for name in files.listing(f"{path}/{layout.NAMES}"):
        try:
            files.unlink(f"{path}/{layout.NAMES}/{name}")
        except IsADirectoryError:
            foreign.append(f"{layout.NAMES}/{name}")
    for name in files.listing(path):
        if name == layout.NAMES:
            try:
                os.rmdir(f"{path}/{name}")
            except OSError:
                if not foreign:
                    busy.append(name)  # somebody is naming an object, or a file of it is in use
        elif layout.BESIDE_WRITERS.fullmatch(name):
            files.unlink(f"{path}/{name}")
        elif name.startswith(layout.IN_USE):
            busy.append(name)
        elif not any(
            kind.fullmatch(name) for kind in (layout.WRITER, layout.LEAVING, layout.KEPT_TO_THE_END)
        ):
            foreign.append(name)
    return foreign, busy


def _remove_writer(path: str, writer: str) -> list[str]:
    """Remove a writer's directory; if that fails, return the names in it, or "" for itself."""
    folder = f"{path}/{writer}"
    try:
        if os.path.islink(folder) or not os.path.isdir(folder):
            return [""] if os.path.lexists(folder) else []
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    if layout.LEAVING.fullmatch(writer):
        return _empty(path, folder, names)
    if layout.SIGNATURE not in names:
        # A user's directory that looks like a writer's, or one that a killed writer just made.
        try:
            os.rmdir(folder)
        except OSError:
            if os.path.lexists(f"{folder}/{layout.SIGNATURE}"):
                return [layout.SIGNATURE]  # made just now
            return [""] if os.path.lexists(folder) else []
        return []
    if all(layout.IN_WRITER.fullmatch(name) for name in names):
        # Move it out of reach of its writer, which may put objects faster than we remove them.
        try:
            os.rename(folder, layout.leaving(path, writer))
        except OSError:
            pass  # object stores do not rename directories
        else:
            return _empty(path, layout.leaving(path, writer), names)
    return _empty(path, folder, names)


def _empty(path: str, folder: str, names: list[str]) -> list[str]:
    """Remove a writer's directory that held `names`; if that fails, return what is in it."""
    for name in names:
        if name.startswith(layout.CLAIM):
            try:
                plain = checked(FileKey(name[layout.CLAIMED_FROM :])).filename
            except InvalidKeyError:
                continue
            files.unlink(f"{path}/{plain}{READY}")
            files.unlink(f"{path}/{plain}")
        if layout.SEGMENT.fullmatch(name):
            retire(f"{folder}/{name}")
        if layout.IN_WRITER.fullmatch(name) and name != layout.SIGNATURE:
            files.unlink(f"{folder}/{name}")
    left = [name for name in files.listing(folder) if name != layout.SIGNATURE]
    if left:
        return left
    files.unlink(f"{folder}/{layout.SIGNATURE}")  # last: it marks the rest as ours
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return []
    except OSError:
        # Its writer, which does not know of the end, just made a file: the directory stays ours.
        with contextlib.suppress(OSError):
            files.create(f"{folder}/{layout.SIGNATURE}", [], 0)
        return [name for name in files.listing(folder) if name != layout.SIGNATURE] or [
            layout.SIGNATURE
        ]
    return []
