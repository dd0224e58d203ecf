"""Ways to publish a file: to put it in place, whole, under a name that others may look for.

A store uses one of two, chosen when it is opened: `RENAMING`, or `MARKERS` on mounts without an
atomic rename. Both have the same methods, which take paths and buffers and raise plain `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from fsexchange.errors import CorruptObjectError
from fsexchange.filesystem import files

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.filesystem.files import BytesLike

T = TypeVar("T")

#: Ending of a marker's name. The rest of the name is that of a file, which is whole.
READY = ".ready"

# By these a network file system tells a reader that the file was replaced: open the name again.
_REPLACED = (errno.ESTALE, errno.EREMOTEIO)
_TRIES = 10


class Publication(Protocol):
    """One way to publish files."""

    @property
    def marked(self) -> bool:
        """Whether a marker says that a file is whole, as ProxyStore's readers expect it."""

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        """Write a file under a name that nobody looks for yet; all of it or nothing."""

    def publish(self, path: str, pieces: Sequence[Buffer], nbytes: int, *, once: bool) -> None:
        """Put a file in place under a name that others may look for.

        It replaces an earlier file. With `once` it replaces none: one of the processes that race
        wins, and all others get `FileExistsError`.
        """

    def read(self, path: str, nbytes: int = -1, *, mappable: bool) -> BytesLike:
        """Return a published file as `files.read` does; `FileNotFoundError` if there is none."""

    def read_part(self, path: str, offset: int, nbytes: int, *, mappable: bool) -> BytesLike:
        """Return a part of a published file as `files.read_part` does."""

    def remove(self, path: str) -> None:
        """Remove a published file; `FileNotFoundError` if there is none."""

    def sign(self, path: str) -> str:
        """Return the path of the file whose existence says that `path` is published."""

    def published(self, listing: Iterable[str]) -> list[str]:
        """Return the names of the published files among the names in a directory."""


class Renaming:
    """Publish by rename(2): readers see the earlier file, or all of the new one."""

    marked = False

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        files.create(path, pieces, nbytes)

    def publish(self, path: str, pieces: Sequence[Buffer], nbytes: int, *, once: bool) -> None:
        if once:
            by_link(path, pieces, nbytes)
            return
        temporary = _write_beside(path, pieces, nbytes)
        try:
            os.rename(temporary, path)
        except BaseException:
            files.unlink(temporary)
            raise

    def read(self, path: str, nbytes: int = -1, *, mappable: bool) -> BytesLike:
        try:  # first without a closure, which takes 0.2 us
            return files.read(path, nbytes, mappable=mappable)
        except OSError as error:
            if error.errno not in _REPLACED:
                raise
        return _patiently(lambda: files.read(path, nbytes, mappable=mappable))

    def read_part(self, path: str, offset: int, nbytes: int, *, mappable: bool) -> BytesLike:
        return _patiently(lambda: files.read_part(path, offset, nbytes, mappable=mappable))

    def remove(self, path: str) -> None:
        os.unlink(path)

    def sign(self, path: str) -> str:
        return path

    def published(self, listing: Iterable[str]) -> list[str]:
        return list(listing)


class Markers:
    """Publish by a second file `<path>.ready`, which is ProxyStore's layout on disk.

    Only one process may publish under a name at a time, unless `once`. While a file is replaced,
    there is a moment without one.
    """

    marked = True

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        files.create(path, pieces, nbytes)
        self._mark(path)

    def publish(self, path: str, pieces: Sequence[Buffer], nbytes: int, *, once: bool) -> None:
        if not once:
            # In this order a reader that finds the same marker before and after reading has read
            # one whole file.
            files.unlink(path + READY)
            files.unlink(path)
        # With `once` the name belongs to the process that creates the file.
        self.create(path, pieces, nbytes)

    def read(self, path: str, nbytes: int = -1, *, mappable: bool) -> BytesLike:
        return _patiently(
            lambda: _unreplaced(path, lambda: files.read(path, nbytes, mappable=mappable))
        )

    def read_part(self, path: str, offset: int, nbytes: int, *, mappable: bool) -> BytesLike:
        return _patiently(
            lambda: _unreplaced(
                path, lambda: files.read_part(path, offset, nbytes, mappable=mappable)
            )
        )

    def remove(self, path: str) -> None:
        files.unlink(path + READY)  # first: a marker promises a file
        os.unlink(path)

    def sign(self, path: str) -> str:
        return path + READY

    def published(self, listing: Iterable[str]) -> list[str]:
        return [name.removesuffix(READY) for name in listing if name.endswith(READY)]

    def _mark(self, path: str) -> None:
        """Make the marker of a whole file; if that fails the file goes as well.

        Each marker has other content than the one before: where mtimes are whole seconds, both may
        have the same time.
        """
        token = os.urandom(8).hex().encode()
        try:
            files.create(path + READY, [token], len(token))
        except FileExistsError:
            pass
        except BaseException:
            files.unlink(path)
            raise


RENAMING, MARKERS = Renaming(), Markers()


def by_link(path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
    """Publish by link(2), which replaces nothing: `FileExistsError` for all racing writers but one.

    Readers never see a part of the file.
    """
    temporary = _write_beside(path, pieces, nbytes)
    try:
        os.link(temporary, path)
    except OSError as error:
        # NFS: the server may have made the link and lost its answer, link(2), BUGS.
        if error.errno == errno.EEXIST and os.stat(temporary).st_nlink == 2:
            return
        # sshfs: the loser of a race gets no more from the server than EPERM.
        if error.errno == errno.EPERM and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        raise
    finally:
        files.unlink(temporary)


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Make the empty file `note`, if any; remove it if the block fails to put its file in place."""
    try:
        if note:
            files.create(note, [], 0)
    except FileExistsError:
        note = ""  # it was made for an earlier file, and stays
    try:
        yield
    except BaseException:
        if note:
            files.unlink(note)  # the file that it is about is not ours, perhaps a user's
        raise


def _patiently(read: Callable[[], T]) -> T:
    """Return what `read` returns; call it again while it says that the file was replaced."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except OSError as error:
            if error.errno not in _REPLACED:
                raise
    return read()


def _unreplaced(path: str, read: Callable[[], T]) -> T:
    """Return what `read` reads of a marked file: one whole file, even while it is replaced."""
    while True:
        before = _token(path + READY)
        try:
            data = read()
        except CorruptObjectError:
            # Too short or too long, as the next file is, whose writer has taken the marker away.
            if _token(path + READY) == before:
                raise
            continue
        if _token(path + READY) == before:
            return data


def _token(marker: str) -> tuple[bytes, int]:
    """Return what differs in the next marker: the content; the time, as ProxyStore's are empty."""
    fd = os.open(marker, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 16), os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def _write_beside(path: str, pieces: Sequence[Buffer], nbytes: int) -> str:
    temporary = f"{os.path.dirname(path)}/.{os.urandom(8).hex()}.tmp"
    files.create(temporary, pieces, nbytes)
    return temporary
