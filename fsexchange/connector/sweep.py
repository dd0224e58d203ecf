"""Remove what fsexchange made in a directory, and nothing else.

An error ends it, and whoever clears the store next goes on: a file that cannot be looked at may be
ours, and what says that the store is ending stays until all else is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import warnings
from functools import partial
from typing import NamedTuple

from fsexchange.connector import layout
from fsexchange.connector.segment import retire
from fsexchange.filesystem import files
from fsexchange.filesystem.markers import MARKERS, READY
from fsexchange.filesystem.publish import RENAMING, patiently

# Seconds for writers still at work, and for removed files still in use.
_PATIENCE = 10.0


class Rest(NamedTuple):
    """What is still in a store's directory: paths in it."""

    foreign: list[str]
    busy: list[str]
    """What goes when its users are done."""


def remove_store(path: str, store_id: str) -> None:
    """Remove the store at `path`, and the directory if fsexchange made it and it is empty.

    Writers that make files meanwhile are swept again. A warning names what remains.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        # GlusterFS tells a second process that clears of what the first has removed as stale.
        rest = patiently(partial(remove_objects, path))
        if not rest.busy or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for name in rest.foreign:
        if "/" in name:  # a user's file in a writer's directory, which becomes the user's
            folder = f"{path}/{os.path.dirname(name)}"
            files.unlink(f"{folder}/{layout.SIGNATURE}")
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
    # Where there is no gate somebody may open another store in this place from here on: sweep
    # nothing any more, but what has this store's id in its name.
    files.unlink(layout.record(path))
    files.unlink(layout.ending(path, store_id))  # last: while it is there the next goes on here
    left = sorted(rest.foreign + rest.busy)
    while patiently(partial(is_made, path)):
        try:
            if _remove_directory(path):
                return
        except OSError:
            return  # the parent lets us remove nothing: empty is all we can do
        names = sorted(files.listing(path))
        if os.path.basename(layout.record(path)) in names:
            return  # another process has opened one
        if left or time.monotonic() > deadline:
            break
        time.sleep(0.01)  # another process is about to, or a late writer removes its own directory
    else:
        names = []  # a directory that was there before stays
    left = left or names
    if left:
        warnings.warn(
            f"{path} was not removed: it holds what fsexchange did not make "
            f"({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})",
            stacklevel=4,
        )


def remove_objects(path: str) -> Rest:
    """Remove all that fsexchange made in `path`, except what says that it ends."""
    rest = Rest([], [])
    for name in files.listing(path):
        if layout.OF_WRITERS.fullmatch(name):
            _remove_writer(path, name, rest)
    # In this order an object comes before its marker, which may be all that says whose it is.
    names = sorted(files.listing(path))
    for name in names:
        if name == layout.NAMES and files.is_directory(f"{path}/{name}"):  # and no user's file
            for named in files.listing(f"{path}/{name}"):
                _remove_file(path, f"{name}/{named}", rest)
            if not _remove_directory(f"{path}/{name}") and not rest.foreign:
                rest.busy.append(name)  # somebody is naming an object, or a file of it is in use
        elif layout.BESIDE_WRITERS.fullmatch(name) or _is_stamped(path, name, names):
            _remove_file(path, name, rest)
        elif name.startswith(layout.IN_USE):
            rest.busy.append(name)
        elif not (layout.OF_WRITERS.fullmatch(name) or layout.KEPT_TO_THE_END.fullmatch(name)):
            rest.foreign.append(name)
    return rest


def _is_stamped(path: str, name: str, names: list[str]) -> bool:
    """Return whether a file is an object with a plain name, or the marker of one."""
    if RENAMING.is_stamped(f"{path}/{name}"):
        return True
    marked = name.removesuffix(READY)
    return marked + READY in names and MARKERS.is_stamped(f"{path}/{marked}")


def is_made(path: str) -> bool:
    """Return whether fsexchange made the directory, by the mode that it gives to its own."""
    return stat.S_IMODE(files.mode_of(path)) == stat.S_ISVTX | 0o700


def _remove_writer(path: str, writer: str, rest: Rest) -> None:
    """Remove a writer's directory, or add to `rest` what is in it."""
    folder = f"{path}/{writer}"
    if not files.is_directory(folder):
        if files.is_there(folder):
            rest.foreign.append(writer)
        return
    names = list(files.listing(folder))
    if not (layout.LEAVING.fullmatch(writer) or layout.SIGNATURE in names or is_made(folder)):
        # A user's directory that looks like a writer's, or one that a killed writer just made.
        if not _remove_directory(folder):
            made_just_now = files.is_there(f"{folder}/{layout.SIGNATURE}")
            (rest.busy if made_just_now else rest.foreign).append(writer)
        return
    if layout.WRITER.fullmatch(writer) and all(map(layout.IN_WRITER.fullmatch, names)):
        # Move it out of reach of its writer, which may put objects faster than we remove them.
        with contextlib.suppress(OSError):  # object stores do not rename directories
            os.rename(folder, f"{path}/{layout.leaving(writer)}")
            writer = layout.leaving(writer)
    _empty(path, writer, names, rest)


def _empty(path: str, writer: str, names: list[str], rest: Rest) -> None:
    """Remove a writer's directory that held `names`, or add to `rest` what is in it."""
    folder = f"{path}/{writer}"
    signature = f"{folder}/{layout.SIGNATURE}"
    for name in names:
        if layout.SEGMENT.fullmatch(name):
            retire(f"{folder}/{name}")
        if layout.IN_WRITER.fullmatch(name) and name != layout.SIGNATURE:
            with contextlib.suppress(IsADirectoryError):  # a user's
                files.unlink(f"{folder}/{name}")
    left = {*files.listing(folder)} - {layout.SIGNATURE}
    if not left:
        files.unlink(signature)  # last: it marks the rest as ours
        if _remove_directory(folder):
            return
        # Its writer, which does not know of the end, just made a file: the directory stays ours.
        with contextlib.suppress(OSError):
            files.create(signature, [], 0)
        rest.busy.append(writer)
    for name in left:
        ours = layout.IN_WRITER.fullmatch(name) and not files.is_directory(f"{folder}/{name}")
        passing = ours or name.startswith(layout.IN_USE)
        (rest.busy if passing else rest.foreign).append(f"{writer}/{name}")


def _remove_file(path: str, name: str, rest: Rest) -> None:
    """Remove a file of ours; a user's directory of that name is foreign."""
    try:
        files.unlink(f"{path}/{name}")
    except IsADirectoryError:
        rest.foreign.append(name)


def _remove_directory(path: str) -> bool:
    """Remove a directory; False if it is not empty."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
