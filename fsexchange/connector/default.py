"""The directory of a store for which none is named, and what was left in its like."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable
from typing import Any

from fsexchange.connector import layout
from fsexchange.connector.gate import gate
from fsexchange.connector.owner import keep, read_record
from fsexchange.connector.place import place
from fsexchange.connector.verdict import judge
from fsexchange.errors import StoreClosedError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.kinds import find_filesystem


def default_store(hosts: Collection[str] = (), *, clear: bool = True) -> dict[str, Any]:
    """Return the `FileConnector` arguments of a store for which no directory is named.

    Those that attach to the store at `$FSEXCHANGE_STORE`, an error if it is gone; without `clear`
    it is kept from now on. Else a new path in `$FSEXCHANGE_DIR`; else one in memory, or where that
    has less than 1 GiB free, for temporary files. The latter only on one host: `ValueError` for the
    names of several `hosts`.

    A new path is random, so that nobody opens it again. So what owners of this user have left
    beside it is removed, once they are proven gone.
    """
    path = _named("FSEXCHANGE_STORE")
    if path is not None:
        found = existing_store(path)
        if not clear:
            with gate(path):
                keep(path, found["store_id"])
        return found
    several = sorted(set(hosts))
    if len(several) > 1 and not os.environ.get("FSEXCHANGE_DIR"):
        raise ValueError(
            f"the ranks are on {len(several)} hosts ({', '.join(several[:3])}, ...) and share "
            "no memory: pass a store_dir that all of them mount, or set $FSEXCHANGE_DIR"
        )
    return {"store_dir": new_path()}


def existing_store(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the `FileConnector` arguments that attach to the store that is at `path`."""
    path = place(path)
    record = None
    try:
        record = read_record(path)
    except NotADirectoryError:
        pass
    except OSError as error:
        raise store_error(error, "look into the store at", path) from error
    if record is None:
        raise StoreClosedError(
            f"there is no store at {path}: name one that is there, or unset $FSEXCHANGE_STORE if "
            "that names it",
            path=path,
            errno=errno.ENOENT,
        )
    return {"store_dir": path, "store_id": record.store_id, "markers": record.markers}


def new_path(beside: str | os.PathLike[str] | None = None) -> str:
    """Return a path for a new store, where nothing is: beside another one, or by default.

    So that nobody opens it again, it is random.
    """
    base = default_base() if beside is None else os.path.dirname(place(beside))
    clear_dead(base)
    return f"{base}/{layout.default_name()}"


def default_base() -> str:
    """Return the directory where a store is made for which none is named."""
    return _named("FSEXCHANGE_DIR") or _room_for_temporary_files()


def default_places() -> list[str]:
    """Return the directories where default stores may be: those that are there."""
    import tempfile

    places = [_named("FSEXCHANGE_STORE"), _named("FSEXCHANGE_DIR"), "/dev/shm"]
    with contextlib.suppress(FileNotFoundError):  # there is none in which this process can write
        places.append(tempfile.gettempdir())
    return [path for path in dict.fromkeys(filter(None, places)) if os.path.isdir(path)]


def _named(variable: str) -> str | None:
    """Return the path that a variable names; `ValueError` for one that no shell has expanded."""
    value = os.environ.get(variable)
    if not value:
        return None
    path = os.path.expanduser(value)
    if "$" in path or path.startswith("~"):
        raise ValueError(f"${variable} is {value!r}, which nothing has expanded; set it to a path")
    return place(path)


def _room_for_temporary_files() -> str:
    base = "/dev/shm"
    try:
        status = os.statvfs(base)
        roomy = status.f_bavail * status.f_frsize >= 1 << 30 and os.access(base, os.W_OK)
    except OSError:
        roomy = False
    if roomy:
        return base
    import tempfile  # 3 ms, and rarely needed

    return tempfile.gettempdir()


def clear_dead(base: str) -> None:
    """Remove the default stores in `base` that owners of this user left, who are proven gone.

    Errors are passed over: another process may do the same, and what stays is tried again by the
    next.
    """
    names: Iterable[str] = ()
    with contextlib.suppress(OSError):  # a directory in which one may make files, but not look
        if not find_filesystem(base).policy.network:
            names = files.listing(base)
    for name in names:
        if layout.DEFAULT.fullmatch(name) is not None:
            with contextlib.suppress(OSError):
                judge(f"{base}/{name}", remove=True)
