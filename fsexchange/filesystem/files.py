"""Whole files: written once from buffers without a copy, then read or mapped.

These functions take paths and buffers, and know nothing of keys and stores. They raise plain
`OSError`, and `CorruptObjectError` for a file of the wrong length.

They open by `(fd,) = map(os.open, ...)`. CPython runs signal handlers after a call: one that raises
would come between `os.open(...)` and the assignment, and nobody would ever close the file. Here the
call is made while `fd` is unpacked, and no handler runs before the next call.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from operator import index
from pickle import PickleBuffer
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fsexchange.errors import CorruptObjectError, UntrustedDirectoryError
from fsexchange.filesystem.mapping import mapped

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Buffers: TypeAlias = Buffer | Sequence[Buffer]

#: Data as a read returns it: always writable, and always the caller's own.
BytesLike: TypeAlias = bytes | bytearray | memoryview

#: Maps a copy of the file at a path, open as a descriptor, of so many bytes; None if it cannot.
MapCopy: TypeAlias = "Callable[[str, int, int], memoryview | None]"

#: A file of this many bytes or more is mapped, not read: on warm ext4 and tmpfs a mapping costs
#: 15 us whatever the size, a `read` 45 us for 1 MiB and 350 us for 4 MiB.
MAP_FROM = 1 << 20

# Fewer bytes are read into a bytearray: to fill it with zeros costs less than to make an array.
_BYTEARRAY_UP_TO = 1 << 16

# Takes what is read beyond the end that a file should have; nobody looks at it.
_BEYOND = bytearray(1)

# The most buffers in one call: limits.h, writev(2).
_IOV_MAX = os.sysconf("SC_IOV_MAX")

# The longest file that there can be.
_LONGEST = (1 << 63) - 1

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_READS, _CREATES = (_READ,), (_CREATE,)

#: Of libc, with errno by `ctypes.get_errno`: fallocate(2).
fallocate = ctypes.CDLL(None, use_errno=True).fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def flatten(obj: Buffers) -> tuple[list[Buffer], int]:
    """Return one object as contiguous buffers, and the sum of their lengths in bytes.

    C-contiguous buffers are passed on uncopied. Others are copied in C order, as
    `memoryview.tobytes` does. `TypeError` for an object without a buffer, such as a `str`.
    """
    if type(obj) is bytes:
        return ([obj], len(obj)) if obj else ([], 0)
    if type(obj) is list and len(obj) == 1 and type(obj[0]) is bytes and obj[0]:
        return [obj[0]], len(obj[0])  # most objects, in less time
    pieces: list[Buffer] = []
    total = 0
    for buffer in obj if isinstance(obj, (list, tuple)) else (obj,):
        if type(buffer) is bytes:
            nbytes = len(buffer)
        else:
            try:
                view = memoryview(buffer)
            except (TypeError, ValueError):  # ValueError: numpy's datetimes export no buffer
                raise TypeError(
                    f"expected a bytes-like object or a list of them, not {type(buffer).__name__}"
                    "; fsexchange.serialize turns any object into such a list"
                ) from None
            nbytes = view.nbytes
            if not view.c_contiguous:
                buffer = view.tobytes()
            elif view.ndim != 1 or view.itemsize != 1:
                buffer = PickleBuffer(buffer).raw() if nbytes else b""
        if nbytes:
            pieces.append(buffer)
            total += nbytes
    return pieces, total


try:
    from fsexchange.filesystem._native import create as create
except ImportError:

    def create(path: str, pieces: Sequence[Buffer], nbytes: int, mode: int = 0o600, /) -> None:
        """Write `pieces`, `nbytes` in all, to a file that must not exist yet: all, or no file.

        Three system calls, if one `pwritev` takes everything. Not synced to disk.
        """
        (fd,) = map(os.open, (path,), _CREATES, (mode,))
        try:
            try:
                if nbytes:
                    write(fd, pieces, nbytes)
            except BaseException:
                os.closerange(fd, fd + 1)  # raises nothing: the first error says more
                raise
            # Write errors may show only here (NFS, quotas); the descriptor is gone either way,
            # so close is checked but never repeated: close(2).
            os.close(fd)
        except BaseException:
            # Ctrl-C counts: nobody will ever have the key of half a file.
            try:
                os.unlink(path)
            except OSError:
                pass
            raise


def write(fd: int, pieces: Sequence[Buffer], nbytes: int, offset: int = 0) -> None:
    """Write contiguous `pieces`, `nbytes` in all, from `offset` on."""
    written = 0
    if 0 < len(pieces) <= _IOV_MAX:
        written = os.pwritev(fd, pieces, offset)
    else:
        for at in range(0, len(pieces), _IOV_MAX):
            written += os.pwritev(fd, pieces[at : at + _IOV_MAX], offset + written)
    if written != nbytes:
        # Any one of several calls may have written too little: then write all again.
        _write_rest(fd, pieces, written if len(pieces) <= _IOV_MAX else 0, offset)


def _write_rest(fd: int, pieces: Sequence[Buffer], written: int, offset: int) -> None:
    """Write all after `written` bytes; one call takes IOV_MAX buffers and 0x7ffff000 bytes."""
    rest = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
    rest.reverse()  # the next piece is last: there `pop` is cheap
    while True:
        offset += written
        while rest and written >= rest[-1].nbytes:
            written -= rest.pop().nbytes
        if not rest:
            return
        rest[-1] = rest[-1][written:]
        written = os.pwritev(fd, rest[: -_IOV_MAX - 1 : -1], offset)
        if written == 0:
            raise OSError(errno.EIO, "pwritev wrote nothing")


def reserve(path: str, nbytes: int) -> None:
    """Make a file longer, with zeros for which there is room: a hole may find the disk full later.

    On a file system that cannot reserve, fallocate(2), it is a hole.
    """
    nbytes = index(nbytes)
    if nbytes > _LONGEST:  # ctypes would take what is left of it
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    (fd,) = map(os.open, (path,), (_WRITE,))
    try:
        if nbytes and fallocate(fd, 0, 0, nbytes) != 0:
            number = ctypes.get_errno()
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, os.strerror(number), path)
        os.ftruncate(fd, nbytes)
    finally:
        os.closerange(fd, fd + 1)


def fill(path: str, pieces: Iterable[tuple[int, Buffer]], nbytes: int = -1) -> None:
    """Write each piece, a contiguous buffer, at its offset in a file that is there.

    `ValueError` for a piece that is not inside of the file's `nbytes` bytes, if that is given.
    """
    end = nbytes if nbytes >= 0 else _LONGEST
    (fd,) = map(os.open, (path,), (_WRITE,))
    try:
        for offset, piece in pieces:
            size = memoryview(piece).nbytes
            if not 0 <= offset <= end - size:  # -1 is the current offset: pwritev2(2)
                raise ValueError(f"{path} has no place for {size} bytes at offset {offset}")
            write(fd, [piece], size, offset)
    except BaseException:
        os.closerange(fd, fd + 1)
        raise
    os.close(fd)  # checked, as in `create`


try:
    from fsexchange.filesystem._native import read_whole
except ImportError:

    def read_whole(path: str, nbytes: int, uid: int, /) -> bytearray | None:
        """Return None: `read` finds out as much."""
        return None


def read(
    path: str,
    nbytes: int = -1,
    mappable: bool = True,
    uid: int = -1,
    map_copy: MapCopy | None = None,
) -> BytesLike:
    """Return a whole file as a writable buffer of the caller's own.

    If `nbytes` is given, a file of another length is a `CorruptObjectError`; if `uid` is given, one
    of another user an `UntrustedDirectoryError`. Three system calls for a file below `MAP_FROM`,
    from 32 KiB on one or two more for its memory; four for a mapping. A mapping is private,
    copy-on-write: pages not written to are shared with all readers, pages written to are the
    caller's, and the file never changes. Where the file is not `mappable`, `map_copy` may map a
    copy of it.
    """
    if 0 <= nbytes < MAP_FROM:
        whole = read_whole(path, nbytes, uid)
        if whole is not None:
            return whole
    (fd,) = map(os.open, (path,), _READS)
    try:
        if uid != -1:
            check_uid(fd, uid, path)
        # One byte more than there should be: so a longer file is noticed without an fstat.
        if 0 <= nbytes < MAP_FROM:
            buffer = bytearray(nbytes) if nbytes < _BYTEARRAY_UP_TO else _memory(nbytes)
            if os.readv(fd, (buffer, _BEYOND)) == nbytes:
                return buffer
        size = os.fstat(fd).st_size
        if nbytes not in (-1, size):
            raise _wrong_length(path, nbytes, size)
        mapping = None
        if size >= MAP_FROM and mappable:
            mapping = mapped(fd, size)
        elif size >= MAP_FROM and map_copy is not None:
            mapping = map_copy(path, fd, size)
        return _read_all(fd, size, path) if mapping is None else mapping
    finally:
        # Raises nothing: an error, as FUSE may say, must not hide the outcome. To catch it would
        # catch one of a signal handler, too.
        os.closerange(fd, fd + 1)


def read_part(
    path: str, offset: int, nbytes: int, *, mappable: bool = True, uid: int = -1
) -> BytesLike:
    """Return `nbytes` bytes of a file from `offset` on, as `read` returns a whole file.

    `CorruptObjectError` if the file ends before.
    """
    (fd,) = map(os.open, (path,), (_READ,))
    try:
        if uid != -1:
            check_uid(fd, uid, path)
        return part_of(fd, path, offset, nbytes, mappable=mappable)
    finally:
        os.closerange(fd, fd + 1)  # as in `read`


def part_of(fd: int, path: str, offset: int, nbytes: int, *, mappable: bool = True) -> BytesLike:
    """Return of an open file what `read_part` returns of the one at a path."""
    # Before memory is taken for what is not there; and to read nothing shows nothing.
    end = offset + nbytes
    if not 0 < nbytes < MAP_FROM or end > _LONGEST:
        size = os.fstat(fd).st_size
        if size < end:
            raise _too_short(path, end, size)
        if nbytes and mappable:
            before = offset % mmap.ALLOCATIONGRANULARITY  # a mapping starts at a page: mmap(2)
            mapping = mapped(fd, before + nbytes, offset - before)
            if mapping is not None:
                return mapping[before:]
    return _read_all(fd, nbytes, path, offset)


def open_regular(path: str, nbytes: int = -1, uid: int = -1) -> int:
    """Return a descriptor to read a regular file from, which nothing in its place can stall.

    `nbytes` and `uid` are as for `read`.
    """
    (fd,) = map(os.open, (path,), (_READ | os.O_NOFOLLOW | os.O_NONBLOCK,))
    try:
        check_uid(fd, uid, path)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if nbytes not in (-1, status.st_size):
            raise _wrong_length(path, nbytes, status.st_size)
    except BaseException:
        os.closerange(fd, fd + 1)
        raise
    return fd


def _wrong_length(path: str, expected: int, actual: int) -> CorruptObjectError:
    return CorruptObjectError(
        f"{path} has {actual} bytes instead of {expected}: it was truncated or overwritten by "
        "something other than fsexchange; put the object again",
        path=path,
        expected=expected,
        actual=actual,
    )


def check_uid(fd: int, uid: int, path: str) -> None:
    """Raise `UntrustedDirectoryError` for an open file of another user than `uid`, unless -1.

    Once it is open nobody can put another one in its place.
    """
    if uid != -1 and os.fstat(fd).st_uid != uid:
        raise UntrustedDirectoryError(
            f"{path} is a file of user {os.fstat(fd).st_uid}: somebody who may write to a parent "
            "has put another directory in the place of the store; choose another store_dir",
            path=path,
            errno=errno.EACCES,
        )


def _read_all(fd: int, nbytes: int, path: str, offset: int = 0) -> BytesLike:
    buffer = _memory(nbytes)
    view = memoryview(buffer)
    done = 0
    while done < nbytes:
        got = os.preadv(fd, [view[done:]], offset + done)  # 0x7ffff000 bytes at most: read(2)
        if got == 0:
            size = os.fstat(fd).st_size
            if size >= offset + nbytes:  # GlusterFS: it was just replaced by another host
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
            raise _too_short(path, offset + nbytes, size)
        done += got
    view.release()
    return buffer


def _too_short(path: str, end: int, size: int) -> CorruptObjectError:
    return CorruptObjectError(
        f"{path} ends after {size} bytes, before byte {end}: ask for what is there, or put the "
        "object again if it was truncated",
        path=path,
        expected=end,
        actual=size,
    )


def _memory(nbytes: int) -> BytesLike:
    """Return fresh memory to read into; only a bytearray is filled with zeros first."""
    return bytearray(nbytes) if nbytes < _BYTEARRAY_UP_TO else np.empty(nbytes, np.uint8).data


def make_empty(path: str) -> None:
    """Make an empty file; no error if there is one already."""
    try:
        create(path, [], 0)
    except FileExistsError:
        pass


def unlink(path: str) -> None:
    """Remove a file; no error if it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def mode_of(path: str) -> int:
    """Return type and mode of what is at a path, not of what a link leads to; 0 if nothing is."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def is_there(path: str) -> bool:
    """Return whether there is something at a path; unlike os.path.lexists, with lstat's errors."""
    return mode_of(path) != 0


def is_directory(path: str) -> bool:
    """Return whether there is a directory at a path; unlike os.path.isdir, with lstat's errors."""
    return stat.S_ISDIR(mode_of(path))


def listing(path: str) -> Iterable[str]:
    """Return the names in a directory; none if it is gone."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return ()
