"""The place of a store: the absolute path of its directory, from what its user passes."""

from __future__ import annotations

import errno
import os
import sys

from fsexchange.errors import StoreError

# Bytes of the longest path, limits.h, without those of the longest name in a store.
_LONGEST = 4096 - 300


def place(store_dir: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """Return the absolute path of a store's directory.

    `ValueError` for what is no path here, `StoreError` if it is relative to a directory that is
    gone.
    """
    path = os.fsdecode(store_dir)
    if not path:
        raise ValueError("store_dir is empty; pass the path of a directory")
    if "\0" in path:
        raise ValueError(f"store_dir is {path!r}, but no path has a NUL in it; pass another")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(
            f"store_dir is {path!r}, but this process writes paths in "
            f"{sys.getfilesystemencoding()}, which lacks a character of it; set PYTHONUTF8=1 or "
            "LC_ALL=C.UTF-8, or pass another path"
        ) from None
    try:
        path = os.path.abspath(path)
        if len(os.fsencode(path)) > _LONGEST:
            raise StoreError(
                f"store_dir has {len(os.fsencode(path))} bytes, where the names in it leave room "
                f"for {_LONGEST}; choose a shorter path",
                path=path,
                errno=errno.ENAMETOOLONG,
            )
        return path
    except FileNotFoundError:
        raise StoreError(
            f"store_dir is {path!r}, but this process's working directory was removed; pass an "
            "absolute path, or change to another directory",
            path=path,
            errno=errno.ENOENT,
        ) from None
