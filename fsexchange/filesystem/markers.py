"""Publish a file by a marker: a second file, which says that the first one is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from fsexchange.errors import CorruptObjectError
from fsexchange.filesystem import files
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.publish import RENAMING, beside, discard, is_taken, mode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.filesystem.files import BytesLike, MapCopy

T = TypeVar("T")

#: Ending of a marker's name. The rest of the name is that of a file, which is whole.
READY = ".ready"

# Ends the content of a stamped file's marker: some mounts that need markers keep no modes.
_STAMP = b" set"
_STAMPED = re.compile(rb"[0-9a-f]{16}" + _STAMP)

# By these a mount says that it cannot rename a file, or not over another one.
_NO_RENAME = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EEXIST, errno.EINVAL)

# Seconds without progress after which the writer of a file without a marker may be gone.
_PATIENCE = 10.0


class Markers:
    """Publish by a second file `<path>.ready`, which is ProxyStore's layout on disk.

    Only one process may publish under a name at a time, unless `once`. While a file is replaced,
    there is a moment without one.
    """

    def create(self, path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
        self._create(path, pieces, nbytes, stamp=False)

    def publish(
        self,
        path: str,
        pieces: Sequence[Buffer],
        nbytes: int,
        *,
        once: bool,
        stamp: bool = False,
    ) -> None:
        while True:
            try:
                # With `once` the name belongs to the process that creates the file.
                self._create(path, pieces, nbytes, stamp=stamp)
                return
            except OSError as error:
                if not is_taken(error, path):
                    raise
                if not once:
                    break
                if self._becomes_whole(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        self._replace(path, pieces, nbytes, stamp=stamp)

    def read(
        self,
        path: str,
        nbytes: int = -1,
        mappable: bool = True,
        uid: int = -1,
        map_copy: MapCopy | None = None,
    ) -> BytesLike:
        return _unreplaced(path, lambda: files.read(path, nbytes, mappable, uid, map_copy))

    def read_part(
        self, path: str, offset: int, nbytes: int, *, mappable: bool, uid: int = -1
    ) -> BytesLike:
        return _unreplaced(
            path, lambda: files.read_part(path, offset, nbytes, mappable=mappable, uid=uid)
        )

    def remove(self, path: str) -> None:
        files.unlink(path + READY)  # first: a marker promises a file
        os.unlink(path)

    def move(self, path: str, to: str) -> None:
        try:
            os.rename(path, to)
        except FileNotFoundError:
            if not files.is_there(to):  # else who was to mark it was killed
                raise
        with contextlib.suppress(FileExistsError):
            token = _new_token(stamp=False)
            files.create(to + READY, [token], len(token))
        files.unlink(path + READY)

    def sign(self, path: str) -> str:
        return path + READY

    def published(self, listing: Iterable[str]) -> list[str]:
        return [name.removesuffix(READY) for name in listing if name.endswith(READY)]

    def is_stamped(self, path: str) -> bool:
        try:
            if not stat.S_ISREG(files.mode_of(path + READY)):
                return False  # none, or a user's: to open a FIFO would wait for its writer
            return _STAMPED.fullmatch(_token(path + READY)[0]) is not None
        except FileNotFoundError:
            return False

    def is_published(self, path: str) -> bool:
        # By its mode as well: a writer that is killed leaves a file without its marker.
        return files.is_there(path + READY) or RENAMING.is_stamped(path)

    def _create(self, path: str, pieces: Sequence[Buffer], nbytes: int, *, stamp: bool) -> None:
        """Write a file and its marker; if that fails the file goes as well."""
        files.create(path, pieces, nbytes, mode(stamp))
        try:
            token = _new_token(stamp)
            files.create(path + READY, [token], len(token))
        except FileExistsError:
            pass
        except BaseException:
            discard(path)
            raise

    def _replace(self, path: str, pieces: Sequence[Buffer], nbytes: int, *, stamp: bool) -> None:
        """Replace a file and its marker; if the disk is full the earlier ones stay."""
        token = _new_token(stamp)
        made = [beside(path), beside(path)]
        try:
            files.create(made[0], pieces, nbytes, mode(stamp))
            files.create(made[1], [token], len(token))
            # In this order a reader that finds the same marker before and after reading has read
            # one whole file.
            files.unlink(path + READY)
            try:
                os.rename(made[0], path)
                os.rename(made[1], path + READY)
            except OSError as error:
                if error.errno not in _NO_RENAME:
                    raise
                files.unlink(path)
                self._create(path, pieces, nbytes, stamp=stamp)
            else:
                made.clear()
        finally:
            for temporary in made:
                discard(temporary)

    def _becomes_whole(self, path: str) -> bool:
        """Return True once a file that is being written is marked, False if it goes.

        `OSError` if it does not grow any more: its writer was killed, or is stopped.
        """
        policy = find_filesystem(path).policy  # an early look would hide the marker from this host
        seen: tuple[int, int] | None = None
        patience = 0.0
        pause = 0.001
        while True:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                return False
            if policy.may_open(path + READY) and files.is_there(path + READY):
                return True
            state = status.st_size, status.st_mtime_ns
            if state != seen:
                seen, patience = state, time.monotonic() + _PATIENCE
            elif time.monotonic() > patience:
                raise OSError(
                    errno.EBUSY, "another process began to write it, and does not go on", path
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.1)


MARKERS = Markers()


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
    (fd,) = map(os.open, (marker,), (os.O_RDONLY | os.O_CLOEXEC,))  # as `files` says
    try:
        return os.read(fd, 32), os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def _new_token(stamp: bool) -> bytes:
    """Return the content of a marker, of which no two are equal.

    Where mtimes are whole seconds, two markers may have the same time.
    """
    return os.urandom(8).hex().encode() + (_STAMP if stamp else b"")
