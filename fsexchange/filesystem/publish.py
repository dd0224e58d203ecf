"""Ways to put a whole object in place under a name that others may already be looking for.

Free functions of paths and buffers, as in `files`; the connector chooses among them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fsexchange.filesystem import files

#: What a network file system says to a reader of a name that is being replaced: open it again,
#: so many times.
REPLACED = (errno.ESTALE, errno.EREMOTEIO)
TRIES = 10

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.filesystem.files import BytesLike


def by_rename(path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
    """Publish by rename(2): readers see what was there before, or all of the new object."""
    temporary = _write_beside(path, pieces, nbytes)
    try:
        os.rename(temporary, path)
    except BaseException:
        files.unlink(temporary)
        raise


def by_link(path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
    """Publish by link(2), which replaces nothing: `FileExistsError`, of racing writers for one."""
    temporary = _write_beside(path, pieces, nbytes)
    try:
        os.link(temporary, path)
    except OSError as error:
        # NFS: the server may have done it and lost its answer, link(2), BUGS.
        if error.errno == errno.EEXIST and os.stat(temporary).st_nlink == 2:
            return
        # sshfs: to the loser of a race its server says no more than EPERM.
        if error.errno == errno.EPERM and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        raise
    finally:
        files.unlink(temporary)


def by_marker(path: str, pieces: Sequence[Buffer], nbytes: int, *, once: bool) -> None:
    """Publish by a second file `<path>.ready`, where there is no atomic rename.

    Whoever sets an object `once` claims the name by creating it: `FileExistsError`.
    """
    if not once:
        # In this order a reader that finds a marker before and the same one after reading has
        # read one whole object.
        files.unlink(f"{path}.ready")
        files.unlink(path)
    files.create(path, pieces, nbytes)
    mark(path)


def mark(path: str) -> None:
    """Make the marker of a whole object; if that fails the object goes, too.

    Each marker differs from the one before: times alone do not, where they are whole seconds.
    """
    token = os.urandom(8).hex().encode()
    try:
        files.create(f"{path}.ready", [token], len(token))
    except FileExistsError:
        pass
    except BaseException:
        files.unlink(path)
        raise


def read_marked(path: str, nbytes: int, *, mappable: bool) -> BytesLike:
    """Return an object that has a marker, whole even if it is being replaced; else no such file."""
    marker = f"{path}.ready"
    while True:
        before = _token(marker)
        data = files.read(path, nbytes, mappable=mappable)
        if _token(marker) == before:
            return data


def _token(marker: str) -> tuple[bytes, int]:
    """Return what tells a marker from a later one; ProxyStore's, which are empty, by their time."""
    fd = os.open(marker, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 16), os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Make the empty file `note`, if any, for the object that the block puts in place."""
    try:
        if note:
            files.create(note, [], 0)
    except FileExistsError:
        note = ""  # an earlier object's, which stays
    try:
        yield
    except BaseException:
        if note:
            files.unlink(note)  # what is under the name is not ours: a user's file, maybe
        raise


def _write_beside(path: str, pieces: Sequence[Buffer], nbytes: int) -> str:
    temporary = f"{os.path.dirname(path)}/.{os.urandom(8).hex()}.tmp"
    files.create(temporary, pieces, nbytes)
    return temporary
