"""Advice for the user when the file system refuses."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from fsexchange.errors import StoreError
from fsexchange.filesystem.kinds import find_filesystem

_ADVICE = {
    errno.ENOSPC: "free space or inodes, evict objects, or choose another directory",
    errno.EDQUOT: "your quota is used up: free space, or choose another directory",
    errno.EFBIG: "a limit of this process or of the file system is reached: see ulimit -f",
    errno.EACCES: "check owner and mode of the path and its parents",
    errno.EPERM: "check owner and mode of the path and its parents; on a file system without hard "
    "links, try a store made with markers=True",
    errno.EROFS: "the mount is read-only: choose another directory",
    errno.EMFILE: "this process has too many files open: see ulimit -n",
    errno.ENFILE: "this host has too many files open",
    errno.ENOTDIR: "a part of the path is a file: choose another directory",
    errno.EISDIR: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "choose a path without them",
    errno.EOPNOTSUPP: "it lacks a system call that this needs; try a store made with markers=True",
    errno.ENOSYS: "it lacks a system call that this needs; try a store made with markers=True",
    errno.EBUSY: "if that process was killed, evict the key and set it again",
    errno.EIO: "the device or the file server fails: ask its administrator",
    errno.ENOTCONN: "the process that serves this file system has ended: have it mounted again",
    errno.ESTALE: "the file server has removed or replaced it: try again",
    errno.ENOENT: "this path, or one that it leads through, is not there. If it is an object's, it "
    "was evicted, or its key belongs to another store, or something other than fsexchange removed "
    "its directory",
    errno.EEXIST: "another process made it at the same time, as only one may with markers=True",
}


@contextlib.contextmanager
def store_errors(doing: str, path: str) -> Iterator[None]:
    """Raise what `store_error` returns for an `OSError`; a `StoreError` passes as it is."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise store_error(error, doing, path) from error


def store_error(error: OSError, doing: str, path: str) -> StoreError:
    """Return the error that tells a user what failed, where, and what to do about it."""
    try:
        kind = find_filesystem(path).kind
    except OSError:
        kind = "file system unknown"
    advice = _ADVICE.get(error.errno or 0)
    return StoreError(
        f"cannot {doing} {path} ({kind}): {error.strerror or error}"
        + (f"; {advice}" if advice else ""),
        path=path,
        errno=error.errno,
    )
