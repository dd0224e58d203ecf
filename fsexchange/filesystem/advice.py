"""Advice for the user when the file system refuses."""

from __future__ import annotations

import errno

from fsexchange.errors import StoreError
from fsexchange.filesystem.kinds import find_filesystem

_ADVICE = {
    errno.ENOSPC: "free space, evict objects, or choose another directory",
    errno.EDQUOT: "your quota is used up: free space, or choose another directory",
    errno.EACCES: "check owner and mode of the directory and its parents",
    errno.EPERM: "check owner and mode of the directory and its parents",
    errno.EROFS: "the mount is read-only: choose another directory",
    errno.EMFILE: "this process has too many files open: see ulimit -n",
    errno.ENFILE: "this host has too many files open",
    errno.ENOTDIR: "a part of the path is a file: choose another directory",
    errno.EOPNOTSUPP: "it lacks a system call that this needs; try a store made with markers=True",
    errno.ENOSYS: "it lacks a system call that this needs; try a store made with markers=True",
    errno.EBUSY: "if that process was killed, evict the key and set it again",
    errno.EIO: "the device or the file server fails: ask its administrator",
    errno.ENOENT: "its key belongs to another store, or something other than fsexchange removed it",
    errno.EEXIST: "another process sets it, too; without a rename only one may do so at a time",
}


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
