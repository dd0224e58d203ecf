"""Bytes from one open file to another, by the kernel where it can, and files that appear whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from fsexchange.errors import FsExchangeError
from fsexchange.filesystem.publish import beside, discard

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Called with the number of bytes of each step.
Progress: TypeAlias = "Callable[[int], object] | None"

# linux/fs.h: _IOW(0x94, 9, int)
_FICLONE = 0x40049409

# Bytes that no file has.
_ENDLESS = 1 << 62

# Bytes of one step: a tenth of a second on a slow disk.
_STEP = 1 << 24

# By these a way says that it is none for these two files: on two file systems, a pipe, O_APPEND.
_NO_WAY = (
    errno.EXDEV,
    errno.EINVAL,
    errno.EBADF,
    errno.EISDIR,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ETXTBSY,
)


def copy(source: int, target: int, progress: Progress = None) -> int:
    """Write the rest of the open file `source` to `target`; return its length in bytes.

    Each may be a pipe. A whole regular file into an empty one shares its blocks, ioctl_ficlone(2),
    on Btrfs, XFS and the like: then nothing is copied.
    """
    if _clone(source, target):
        return os.lseek(source, 0, os.SEEK_END)
    total = 0
    ways: list[Callable[[int, int, int], int]] = [
        os.copy_file_range,
        _sendfile,
        _splice,
        _read_and_write,
    ]
    while ways:
        try:
            done = ways[0](source, target, _STEP)
        except OSError as error:
            if error.errno not in _NO_WAY or len(ways) == 1:
                raise
            done = 0
        if done:
            total += done
            if progress is not None:
                progress(done)
        else:  # at the end, but copy_file_range finds the files of some file systems empty
            ways.pop(0)
    return total


def _clone(source: int, target: int) -> bool:
    """Return whether `target` shares all blocks of `source` now."""
    status = os.fstat(source)
    if not stat.S_ISREG(status.st_mode) or not status.st_size or os.lseek(source, 0, os.SEEK_CUR):
        return False
    there = os.fstat(target)
    if not stat.S_ISREG(there.st_mode) or there.st_size:
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # each file system has its own; to copy tells what matters
        return False
    return True


def _sendfile(source: int, target: int, count: int) -> int:
    return os.sendfile(target, source, None, count)


def _splice(source: int, target: int, count: int) -> int:
    _wait_for_data(source)
    return os.splice(source, target, count)


def _read_and_write(source: int, target: int, count: int) -> int:
    data = memoryview(read(source, min(count, 1 << 20)))
    done = 0
    while done < len(data):
        done += os.write(target, data[done:])
    return done


def read(source: int, nbytes: int) -> bytes:
    """Return up to so many bytes of an open file, which may be a pipe; none at its end.

    A signal is handled within a second, also where a pipe's writer is silent.
    """
    _wait_for_data(source)
    return os.read(source, nbytes)


def _wait_for_data(source: int) -> None:
    """Wait until a read does not wait for a writer.

    Python handles a signal that comes just before a system call only after it, which a silent
    writer would delay for ever: `kill` would do nothing.
    """
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while not poll.poll(1000):
        pass


def write(target: int, pieces: Iterable[Buffer], progress: Progress = None) -> None:
    """Write contiguous buffers to an open file, which may be a pipe."""
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            done = os.write(target, rest[:_STEP])
            rest = rest[done:]
            if progress is not None:
                progress(done)


def write_with_head(
    path: str, head: Callable[[int], bytes], source: int, progress: Progress = None
) -> int:
    """Write a head, and the rest of the open file `source`, to an empty file; return its length.

    `head` is called with the length of the rest, and returns as many bytes for any. Until the end
    the head says that more is to come than there ever is: a killed writer leaves what is too short.
    """
    (target,) = map(os.open, (path,), (os.O_WRONLY | os.O_CLOEXEC,))  # as `files` says
    try:
        start = head(_ENDLESS)
        write(target, [start])
        done = copy(source, target, progress)
        if start:
            os.pwrite(target, head(done), 0)
        done += len(start)
    except BaseException:
        os.closerange(target, target + 1)
        raise
    os.close(target)  # checked: write errors may show only here
    return done


@contextlib.contextmanager
def replacing(path: str) -> Iterator[int]:
    """Open a file to write to, which takes the place of `path` at the end, whole, or not at all.

    What is at `path` and is no regular file, such as a pipe, is written to as it is.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with _writing(path, path, 0) as target:
            yield target
        return
    path = os.path.realpath(path)
    temporary = beside(path)
    try:
        with _writing(temporary, path, os.O_CREAT | os.O_EXCL) as target:
            yield target
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise


@contextlib.contextmanager
def _writing(path: str, shown: str, flags: int) -> Iterator[int]:
    """Open a file to write to. Errors name `shown`."""
    try:
        (target,) = map(os.open, (path,), (os.O_WRONLY | os.O_CLOEXEC | flags,), (0o666,))
        try:
            yield target
        except BaseException:
            os.closerange(target, target + 1)
            raise
        os.close(target)  # checked, as in `append`
    except OSError as error:
        if error.filename in (None, path) and not isinstance(error, FsExchangeError):
            error.filename = shown
        raise
