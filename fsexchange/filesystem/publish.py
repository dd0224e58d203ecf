"""Ways to publish a file: to put it in place, whole, under a name that others may look for.

A store uses one of two, chosen when it is opened: `RENAMING`, or on mounts without an atomic rename
`markers.MARKERS`. Both have the same methods, which take paths and buffers, and raise `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from fsexchange.filesystem import files

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.filesystem.files import BytesLike, MapCopy

T = TypeVar("T")

#: By these a network file system tells a reader that the file was replaced: open the name again.
#: GlusterFS remembers for a second, by default, which file had the name.
REPLACED = (errno.ESTALE, errno.EREMOTEIO)
_PATIENCE = 2.0

# GlusterFS may for a moment have no file at all under a name that another host replaces.
_MISSING_FOR = 0.1


class Publication(Protocol):
    """One way to publish files."""

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        """Write a file under a name that nobody looks for yet; all of it or nothing."""

    def publish(
        self,
        path: str,
        pieces: Sequence[Buffer],
        nbytes: int,
        *,
        once: bool,
        stamp: bool = False,
    ) -> None:
        """Put a file in place under a name that others may look for.

        It replaces an earlier file. With `once` it replaces none: one of the processes that race
        wins, and all others get `FileExistsError`. A file with a `stamp` is `is_stamped`.
        """

    def read(
        self,
        path: str,
        nbytes: int = -1,
        mappable: bool = True,
        uid: int = -1,
        map_copy: MapCopy | None = None,
    ) -> BytesLike:
        """Return a published file as `files.read` does; `FileNotFoundError` if there is none."""

    def read_part(
        self, path: str, offset: int, nbytes: int, *, mappable: bool, uid: int = -1
    ) -> BytesLike:
        """Return a part of a published file as `files.read_part` does."""

    def remove(self, path: str) -> None:
        """Remove a published file; `FileNotFoundError` if there is none."""

    def move(self, path: str, to: str) -> None:
        """Give a published file a name that others may look for, in place of its own."""

    def is_stamped(self, path: str) -> bool:
        """Return whether the file says by itself that it was published, with a `stamp`."""

    def is_published(self, path: str) -> bool:
        """Return whether a file with a name of the user's choice was published, by whomever."""

    def sign(self, path: str) -> str:
        """Return the path of the file whose existence says that `path` is published."""

    def published(self, listing: Iterable[str]) -> list[str]:
        """Return the names of the published files among the names in a directory."""


class Renaming:
    """Publish by rename(2): readers see the earlier file, or all of the new one."""

    create = staticmethod(files.create)

    def publish(
        self,
        path: str,
        pieces: Sequence[Buffer],
        nbytes: int,
        *,
        once: bool,
        stamp: bool = False,
    ) -> None:
        if once:
            by_link(path, pieces, nbytes, stamp=stamp)
            return
        temporary = beside(path)
        try:
            _create_stamped(temporary, pieces, nbytes, stamp)
            os.rename(temporary, path)
        except BaseException:
            discard(temporary)
            raise

    read = staticmethod(files.read)
    read_part = staticmethod(files.read_part)

    remove = staticmethod(os.unlink)

    def move(self, path: str, to: str) -> None:
        os.rename(path, to)

    def is_stamped(self, path: str) -> bool:
        found = files.mode_of(path)
        return stat.S_ISREG(found) and bool(found & stat.S_ISVTX)

    is_published = is_stamped

    def sign(self, path: str) -> str:
        return path

    def published(self, listing: Iterable[str]) -> list[str]:
        return list(listing)


RENAMING = Renaming()


def by_link(path: str, pieces: Sequence[Buffer], nbytes: int, *, stamp: bool = False) -> None:
    """Publish by link(2), which replaces nothing: `FileExistsError` for all racing writers but one.

    Readers never see a part of the file.
    """
    temporary = beside(path)
    try:
        _create_stamped(temporary, pieces, nbytes, stamp)
        try:
            os.link(temporary, path)
        except OSError as error:
            # NFS: the server may have made the link and lost its answer, link(2), BUGS.
            if error.errno != errno.EEXIST or os.stat(temporary).st_nlink != 2:
                if is_taken(error, path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
                raise
        with contextlib.suppress(OSError):  # it is published
            os.unlink(temporary)
    except BaseException:
        discard(temporary)
        raise


def is_taken(error: OSError, path: str) -> bool:
    """Return whether the error is that another process was faster to make the file.

    On sshfs the loser of a race gets no more from the server than EPERM.
    """
    return isinstance(error, FileExistsError) or (
        error.errno == errno.EPERM and os.path.lexists(path)
    )


def mode(stamp: bool) -> int:
    """Return the mode of a file to make.

    The stamp is the sticky bit, which means nothing for a file: inode(7). Open(2) sets it as it
    makes the file, so there is no moment without it.
    """
    return stat.S_ISVTX | 0o600 if stamp else 0o600


def patiently(read: Callable[[], T], is_there: Callable[[], bool] = bool) -> T:
    """Return what `read` returns; call it again while the file is being replaced.

    `is_there` says so of one that `read` does not find.
    """
    start = time.monotonic()
    pause = 0.0
    while True:
        try:
            return read()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            if not missing and error.errno not in REPLACED:
                raise
            if time.monotonic() > start + (_MISSING_FOR if missing else _PATIENCE):
                raise
            if missing and not is_there():
                raise
        time.sleep(pause)
        pause = min(2 * pause + 0.001, 0.1)


def beside(path: str) -> str:
    """Return the path of a temporary file that is to be renamed to `path`."""
    return f"{os.path.dirname(path)}/.{os.urandom(8).hex()}.tmp"


def _create_stamped(path: str, pieces: Sequence[Buffer], nbytes: int, stamp: bool) -> None:
    files.create(path, pieces, nbytes, mode(stamp))
    if stamp and not RENAMING.is_stamped(path):
        with contextlib.suppress(OSError):
            os.chmod(path, mode(stamp))  # bindfs drops the bit from open(2), and takes it here
        if not RENAMING.is_stamped(path):
            raise OSError(errno.EOPNOTSUPP, "the mount does not keep the sticky bit of a file")


def discard(path: str) -> None:
    """Remove a file that nobody needs. An error of this would hide what has happened before."""
    try:
        os.unlink(path)
    except OSError:
        pass
