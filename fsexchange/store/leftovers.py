"""Leftovers: the stores below a directory, and what killed processes have left of them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from fsexchange.connector import inventory, layout
from fsexchange.connector.default import default_places
from fsexchange.connector.inventory import Item
from fsexchange.connector.life import SILENT_AFTER
from fsexchange.connector.owner import read_record
from fsexchange.connector.place import place
from fsexchange.connector.verdict import State, Verdict, judge
from fsexchange.errors import StoreError
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.process import Process
from fsexchange.store.partials import Partial, partials

#: Seconds of silence after which `gc` takes an owner for dead of which nothing else is known.
OLDER_THAN = 86400.0

# By these a file system says that another process has just removed something.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class FoundStore(NamedTuple):
    """A store that `gc` has found."""

    path: str
    state: State
    """`dead`: its owner is proven dead. `living`: its owner lives. `kept`: it is for later
    processes, and has no owner. `foreign`: another user's. `unknown`: none of these is proven."""
    why: str
    """What shows it, for people."""
    owner: Process | None
    """The process that owns it or did; None if its record is lost or cannot be read."""
    files: int
    nbytes: int
    """Bytes on disk or in memory."""
    age: float
    """Seconds since a file in it was last written to."""
    removed: bool
    partials: tuple[Partial, ...]
    """If the store goes on: the files that writers have left partial."""


def gc(
    base_dir: str | os.PathLike[str] | None = None,
    *,
    remove: bool = False,
    older_than: float = OLDER_THAN,
) -> list[FoundStore]:
    """Return the stores below a directory, and `remove` those whose owners are proven dead.

    Without a directory, below those where stores are made for which none is named. Links are not
    followed, nor other file systems entered.

    Proof is, where one kernel decides, that an owner's lock is free, unless it is seen to run.
    Where hosts share the file system it is that its pid is free, in a process of its kernel; that
    its host has booted since, in one of its host; or, anywhere, that it has given no sign of life
    for `older_than` seconds, of which it gives one every 30. A stopped process gives none. Kept
    stores and those of other users are never removed; of a store that goes on, partial files are,
    which nobody can complete.

    Any number of processes may do so at the same time. Raises `StoreError` for a directory in which
    it cannot look, `ValueError` for less than 300 seconds. A warning names what fsexchange did not
    make in a removed store, which stays.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     [(found.state, found.removed) for found in gc(store.store_dir, remove=True)]
    [('living', False)]
    """
    if not older_than >= SILENT_AFTER:
        raise ValueError(
            f"older_than is {older_than} s, but a sign of life may come {SILENT_AFTER:.0f} s late: "
            "pass that or more"
        )
    places = default_places() if base_dir is None else [place(base_dir)]
    found: dict[str, FoundStore] = {}
    for base in map(os.path.realpath, places):
        if not os.path.isdir(base):
            if base_dir is None:
                continue  # it was in a store that was removed just now
            raise StoreError(
                f"there is no directory {base} to look for stores in; name one that is there",
                path=base,
                errno=errno.ENOENT,
            )
        try:
            for path in _below(base):
                if path not in found:
                    store = _look_at(path, older_than, remove=remove)
                    if store is not None:
                        found[path] = store
        except OSError as error:
            if base_dir is not None:
                raise store_error(error, "look for stores in", base) from error
    return [found[path] for path in sorted(found)]


def dead_beside(base: str) -> list[FoundStore]:
    """Return the dead stores directly in a directory, as `gc` finds them."""
    found = []
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and layout.DEFAULT.fullmatch(entry.name):
                store = _look_at(entry.path, OLDER_THAN, remove=False)
                if store is not None and store.state == "dead":
                    found.append(store)
    return found


def _below(base: str) -> Iterator[str]:
    """Yield what may be a store, in the directory or below. `OSError` if it cannot be listed."""
    status = os.stat(base)
    device = status.st_dev
    stack = [(base, status.st_mode)]
    while stack:
        path, mode = stack.pop()
        try:
            with os.scandir(path) as found:
                folders, names = [], []
                for entry in found:
                    names.append(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry)
        except OSError:
            if path == base:
                raise
            if layout.DEFAULT.fullmatch(os.path.basename(path)):
                yield path  # most likely another user's
            continue
        made = stat.S_IMODE(mode) == stat.S_ISVTX | 0o700
        made = made and layout.OF_WRITERS.fullmatch(os.path.basename(path)) is None
        here = made or any(map(layout.OF_A_STORE.fullmatch, names))
        for entry in folders:
            ours = layout.OF_WRITERS.fullmatch(entry.name) or entry.name == layout.NAMES
            if not (here and ours):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev == device:
                        stack.append((entry.path, status.st_mode))
        if here:
            yield path


def _look_at(path: str, older_than: float, *, remove: bool) -> FoundStore | None:
    """Return what is known of the store at `path`; None if there is none."""
    try:
        record = None
        items: list[Item] = []
        with contextlib.suppress(PermissionError):  # another user's
            record = read_record(path)
            items = list(inventory.items(path, markers=record is not None and record.markers))
        ours = [item for item in items if item.kind != "foreign"]
        latest = max((item.modified for item in ours), default=os.stat(path).st_mtime)
        verdict = judge(path, older_than=older_than)
    except OSError as error:
        if error.errno in _GONE:
            return None
        verdict, ours, latest = (
            Verdict("unknown", _message(error, "look at", path)),
            [],
            time.time(),
        )
    if verdict is not None and verdict.state == "dead" and remove:
        why = verdict.why
        try:
            verdict = judge(path, older_than=older_than, remove=True)
        except OSError as error:
            if error.errno in _GONE:
                return None
            why += f", but: {_message(error, 'remove the store at', path)}"
            verdict = Verdict("dead", why, None if record is None else record.process)
    if verdict is None:
        return None  # or another process was faster
    partial: list[Partial] = []
    if verdict.state in ("living", "kept") and record is not None:
        network = find_filesystem(path).policy.network
        partial = partials(ours, path, markers=record.markers, network=network, remove=remove)
    return FoundStore(
        path=path,
        state=verdict.state,
        why=verdict.why,
        owner=verdict.owner,
        files=len(ours),
        nbytes=sum(item.allocated for item in ours),
        age=max(0.0, time.time() - latest),
        removed=verdict.removed,
        partials=tuple(partial),
    )


def _message(error: OSError, doing: str, path: str) -> str:
    return str(error if isinstance(error, StoreError) else store_error(error, doing, path))
