"""The files of a store that hold one object each: written, read and removed by their paths."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fsexchange.connector.directory import Directory
from fsexchange.errors import CorruptObjectError
from fsexchange.filesystem import files
from fsexchange.filesystem.publish import REPLACED, Publication, patiently
from fsexchange.filesystem.watch import until

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.connector.keys import FileKey
    from fsexchange.filesystem.files import Buffers, BytesLike, MapCopy

try:
    from fsexchange.connector._native import put_own as put_own
    from fsexchange.connector._native import read_own as read_own
except ImportError:

    def put_own(obj: Buffers, kind: type[FileKey], folder: bytes, name: str, /) -> FileKey | None:
        """Return None: `OwnFiles.create` does as much."""
        return None

    def read_own(
        key: FileKey, kind: type[FileKey], folder: bytes, below: int, uid: int, /
    ) -> bytearray | None:
        """Return None: `OwnFiles.read` finds out as much."""
        return None


# From so many names on a listing of their directory costs less than a look at each.
_LIST_FROM = 16


class OwnFiles:
    """The own files of one store as one process uses them. Threads may share it.

    A file is `sure` if a key with its length exists: the file was there before, so its name may be
    opened. Others are looked for in a way that hides no name from this host. All methods raise
    `StoreError` where the file system refuses, `StoreClosedError` if the store is gone.
    """

    def __init__(self, directory: Directory, publication: Publication) -> None:
        self._directory = directory
        self._publication = publication
        self._create, self._read = publication.create, publication.read  # once: each verb pays

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        """Write a file under a name that nobody looks for yet."""
        try:
            self._create(path, pieces, nbytes)
        except OSError as error:
            raise self._directory.error(error, "write", path) from error

    def publish(
        self,
        path: str,
        pieces: Sequence[Buffer],
        nbytes: int,
        *,
        once: bool,
        stamp: bool = False,
    ) -> None:
        """Put a file in place under a name that others may look for; see `Publication.publish`."""
        try:
            self._publication.publish(path, pieces, nbytes, once=once, stamp=stamp)
        except OSError as error:
            if once and isinstance(error, FileExistsError):
                raise
            raise self._directory.error(error, "write", path) from error

    def read(
        self,
        path: str,
        nbytes: int = -1,
        map_copy: MapCopy | None = None,
        failed: int = 0,
    ) -> BytesLike | None:
        """Return a file as a writable buffer of the caller's own, or None if there is none.

        `nbytes` is its length, or -1 if the file is not `sure`. A file of another length is a
        `CorruptObjectError`, unless it has a stamp: then `set` has replaced it since. One that is
        being replaced is opened again. `map_copy` is for those that are `sure`. `failed` is the
        errno of a first try, which is not made again.
        """
        # Small files are never mapped, so the kind of file system need not be found out for them.
        mappable = 0 <= nbytes < files.MAP_FROM or self._directory.policy.mappable
        uid = self._directory.uid
        try:
            if nbytes >= 0 or self._may_open(path):
                try:  # most need no `partial`
                    if failed:
                        raise OSError(failed, os.strerror(failed), path)
                    return self._read(path, nbytes, mappable, uid, map_copy)
                except OSError as error:
                    seen = partial(self._is_seen, path, sure=nbytes >= 0)
                    if not (error.errno in REPLACED or (error.errno == errno.ENOENT and seen())):
                        raise
                    read = partial(self._read, path, nbytes, mappable, uid, map_copy)
                    return patiently(read, seen)
        except FileNotFoundError:
            pass
        except CorruptObjectError:
            if nbytes < 0 or not self._publication.is_stamped(path):
                raise
            return self.read(path)
        except OSError as error:
            raise self._directory.error(error, "read", path) from error
        self._directory.check()
        return None

    def read_part(self, path: str, offset: int, nbytes: int, *, sure: bool) -> BytesLike | None:
        """Return `nbytes` bytes from `offset` on, or None if there is no file."""
        mappable = nbytes < files.MAP_FROM or self._directory.policy.mappable
        try:
            if sure or self._may_open(path):
                read = partial(self._publication.read_part, path, offset, nbytes)
                read = partial(read, mappable=mappable, uid=self._directory.uid)
                return patiently(read, partial(self._is_seen, path, sure=sure))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._directory.error(error, "read", path) from error
        self._directory.check()
        return None

    def open(self, path: str, nbytes: int) -> int | None:
        """Return a descriptor to read a file from, or None if there is none.

        `nbytes` is as for `read`.
        """
        sure = nbytes >= 0
        try:
            if (sure and self.sign(path) == path) or self.is_there(path, sure=sure):
                return files.open_regular(path, nbytes, self._directory.uid)
        except FileNotFoundError:
            pass
        except CorruptObjectError:
            if nbytes < 0 or not self._publication.is_stamped(path):
                raise
            return self.open(path, -1)
        except OSError as error:
            raise self._directory.error(error, "read", path) from error
        self._directory.check()
        return None

    def is_there(self, path: str, *, sure: bool) -> bool:
        """Return whether there is such a file."""
        sign = self._publication.sign(path)
        try:
            if not sure and not self._may_open(path):
                return False
            os.stat(sign)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._directory.error(error, "look at", sign) from error

    def _is_seen(self, path: str, *, sure: bool) -> bool:
        """Return whether a file that was not found is there all the same: a look at its name says.

        It does where names are looked up by listings, as elsewhere it may be older than the open.
        """
        return self._directory.policy.lookup == "list" and self.is_there(path, sure=sure)

    def present(self, folder: str, names: Sequence[str]) -> list[str]:
        """Return those of several names in a directory under which there is a file.

        They are not `sure`. One listing tells of all, where it can be trusted and is worth it.
        """
        lookup = self._directory.policy.lookup
        if lookup == "open" or (lookup == "any" and len(names) < _LIST_FROM):
            return [name for name in names if self.is_there(f"{folder}/{name}", sure=True)]
        try:
            listing = frozenset(files.listing(folder))
        except OSError as error:
            raise self._directory.error(error, "list", folder) from error
        return [name for name in names if self._publication.sign(name) in listing]

    def sign(self, path: str) -> str:
        """Return the path of the file whose appearance says that there is a file."""
        return self._publication.sign(path)

    def remove(self, path: str, plain: bool = False) -> bool:
        """Remove a file; False if there is none.

        Beside files with `plain` names may be those of a user, which are none of ours.
        """
        try:
            if plain and not self._publication.is_published(path):
                return False
            self._publication.remove(path)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._directory.error(error, "remove", path) from error

    def move(self, path: str, to: str) -> None:
        """Give a file another name, under which others may look for it."""
        try:
            self._publication.move(path, to)
        except OSError as error:
            raise self._directory.error(error, "rename", path) from error

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a directory."""
        try:
            return self._publication.published(files.listing(folder))
        except OSError as error:
            raise self._directory.error(error, "list", folder) from error

    def wait(
        self,
        look: Callable[[], bool],
        folder: str,
        timeout: float | None,
        check: Callable[[], None],
    ) -> bool:
        """Call `look` until it returns True; False if it does not within `timeout` seconds.

        Changes in the directory `folder` make it return True. See `watch.until`.
        """
        return until(
            look,
            folder,
            deadline=None if timeout is None else time.monotonic() + timeout,
            watched=not self._directory.policy.network,
            check=check,
        )

    def _may_open(self, path: str) -> bool:
        return self._directory.policy.may_open(self._publication.sign(path))
