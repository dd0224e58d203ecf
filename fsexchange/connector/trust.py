"""Which directories are trusted: those that only the calling user can change."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from fsexchange.errors import StoreError, UntrustedDirectoryError
from fsexchange.filesystem.advice import store_error


def trusted_uid(path: str, *, trust: bool) -> int:
    """Return the user whose files alone are to be read in a directory, or -1 for anybody's.

    Other users can put a directory of theirs in its place at any time if they own a parent, or may
    write to one that is not sticky: rename(2), EPERM.
    """
    me = os.geteuid()
    for parent in () if trust else _parents(path):
        status = os.stat(parent)
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if status.st_uid not in (0, me) or (writable and not status.st_mode & stat.S_ISVTX):
            return me
    return -1


def _parents(path: str, links: int = 40) -> Iterator[str]:
    """Yield the directories in which a name leads to `path`; those of links on the way, too."""
    while path != "/":
        parent = os.path.dirname(path)
        yield parent
        if links and os.path.islink(path):
            target = os.path.join(os.path.realpath(parent), os.readlink(path))
            yield from _parents(os.path.normpath(target), links - 1)
        path = parent


def check_trust(path: str, *, trust: bool) -> None:
    """Raise unless `path` is a directory that only the calling user can change.

    `FileNotFoundError` if there is nothing at all.
    """
    try:
        status = os.stat(path, follow_symlinks=trust)
    except FileNotFoundError:
        if os.path.islink(path):
            raise StoreError(
                f"{path} is a symbolic link to nothing; make what it names, or choose another "
                "store_dir",
                path=path,
                errno=errno.ENOTDIR,  # as it does not mean: wait for the next one
            ) from None
        raise
    except OSError as error:
        raise store_error(error, "look at", path) from error
    if stat.S_ISLNK(status.st_mode):
        problem, remedy = "is a symbolic link", "pass the directory that it leads to"
    elif not stat.S_ISDIR(status.st_mode):
        raise StoreError(
            f"{path} is not a directory; choose another store_dir", path=path, errno=errno.ENOTDIR
        )
    elif status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}, and you are {os.geteuid()}"
        remedy = "choose another store_dir"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"is writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
        remedy = "`chmod 700` it"
    else:
        return
    if not trust:
        raise UntrustedDirectoryError(
            f"{path} {problem}: whoever can put files there can run code in your processes, as "
            f"objects are unpickled; {remedy}, or make a FileConnector with trust_directory=True",
            path=path,
            errno=errno.EACCES,
        )
