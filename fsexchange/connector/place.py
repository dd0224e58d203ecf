"""The place of a store: which directory is the default, and which directories are trusted."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from fsexchange.errors import StoreError, UntrustedDirectoryError
from fsexchange.filesystem.advice import store_error


def default_directory(hosts: Collection[str] = ()) -> str:
    """Return a directory for a store whose user names none.

    It is `$FSEXCHANGE_DIR`; else a new path in memory, or, if that has less than 1 GiB free, in the
    directory for temporary files. Several `hosts` share neither: `ValueError`.
    """
    named = os.environ.get("FSEXCHANGE_DIR")
    if named:
        return named
    several = sorted(set(hosts))
    if len(several) > 1:
        raise ValueError(
            f"the ranks are on {len(several)} hosts ({', '.join(several[:3])}, ...) "
            "and share no memory: pass a store_dir that all of them mount, or set $FSEXCHANGE_DIR"
        )
    base = "/dev/shm"
    try:
        status = os.statvfs(base)
        roomy = status.f_bavail * status.f_frsize >= 1 << 30 and os.access(base, os.W_OK)
    except OSError:
        roomy = False
    if not roomy:
        import tempfile  # 3 ms, and rarely needed

        base = tempfile.gettempdir()
    return f"{base}/fsexchange-{os.urandom(8).hex()}"


def check_trust(path: str, *, trust: bool) -> None:
    """Raise unless `path` is a directory that only the calling user can change.

    `FileNotFoundError` if there is nothing at all.
    """
    try:
        status = os.stat(path, follow_symlinks=trust)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise store_error(error, "look at", path) from error
    if stat.S_ISLNK(status.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        raise StoreError(
            f"{path} is not a directory; choose another store_dir", path=path, errno=errno.ENOTDIR
        )
    elif status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}, and you are {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"is writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    if not trust:
        raise UntrustedDirectoryError(
            f"{path} {problem}: whoever can put files there can run code in your processes, as "
            "objects are unpickled; choose another store_dir, `chmod 700` it, or pass "
            "trust_directory=True",
            path=path,
            errno=errno.EACCES,
        )
