"""Locks by which the kernel says who lives: flock(2), free once the process that held it is gone.

On a file system of one kernel a lock is seen as held from other pid namespaces, containers and
users, with or without /proc. It is free at once after SIGKILL and after execv(2) (O_CLOEXEC), and
none outlives a reboot. Between hosts locks cannot be trusted: several processes may hold one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import weakref
from collections.abc import Iterator
from typing import Any


class _Plain:
    """Owns a descriptor, in place of the class below."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


# A class in C that owns any descriptor and closes it when it is dropped: a signal handler that
# raises while Python code does that would leave the lock for good, and its exception would be lost.
# gevent and eventlet take the class away.
_own: Any = getattr(getattr(select, "epoll", None), "fromfd", _Plain)

# Owners of descriptors that a program has closed under them: they may be its own files by now.
_lost: list[Any] = []

# Those of this process: a forked child would hold them for its parent, even when that is gone.
_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_forks = 0


class Lock:
    """A file or directory that is open to be locked; a forked child closes its copy first thing.

    Raises `OSError` where it cannot be opened.
    """

    fd = -1
    _owner: Any = None
    _file: tuple[int, int] | None = None

    def __init__(self, path: str, flags: int, mode: int = 0o600) -> None:
        self.path = path
        self._pid = os.getpid()
        _locks.add(self)
        while True:
            before = _forks
            (self._owner,) = map(_own, map(os.open, (path,), (flags | os.O_CLOEXEC,), (mode,)))
            self.fd = self._owner.fileno()
            if _forks == before:
                self._file = _file_of(self.fd)
                return
            # A child that was forked between the two lines has a copy that it does not know of.
            self._owner.close()

    def take(self) -> bool:
        """Lock it, without waiting; False if somebody has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: str) -> bool:
        """Return whether it is open, and what it has open is at `path`."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return self._is_open() and self._file == (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Free the lock and close the file; doing so again does nothing."""
        _locks.discard(self)
        # Not by closing alone: a program that is just being started has a copy until its exec. Nor
        # in a child whose fork ran no Python (of a library in C): its parent holds the lock.
        if self._is_open() and self._pid == os.getpid():
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        self._forget()

    def _forget(self) -> None:
        """Close this process's copy, which leaves the lock to those who have another."""
        if self._is_open():
            self._owner.close()
        elif self.fd >= 0:
            _lost.append(self._owner)
        self.fd = -1

    def _is_open(self) -> bool:
        """Return whether the descriptor is still this lock's.

        A program may close all descriptors, as daemons do, and open files of its own.
        """
        return self.fd >= 0 and self._file in (None, _file_of(self.fd))


@contextlib.contextmanager
def nobody_writes(path: str) -> Iterator[bool | None]:
    """Return whether no process of this kernel has a file open to write, and keep it so meanwhile.

    By a lease, fcntl(2): whoever opens the file to write waits for its end. None if the kernel
    cannot tell, as of a file of another user.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    (fd,) = map(os.open, (path,), (flags,))  # as `files` says
    try:
        answer: bool | None = True
        try:
            # A writer that waits is announced by a signal: by SIGIO, unless told, which kills.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            answer = False
        except OSError:
            answer = None
        yield answer
        if answer:
            # Not by closing alone: a program that is just being started has a copy until its exec.
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(fd)


def free(path: str) -> None:
    """Free what this process holds of the locks on a file or directory.

    An exception that nobody has handled, such as that of a second Ctrl-C, may keep one alive.
    """
    for lock in tuple(_locks):
        if lock.path == path:
            lock.close()


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _before_fork() -> None:
    global _forks
    _forks += 1


def _in_forked_child() -> None:
    for lock in tuple(_locks):
        lock._forget()


os.register_at_fork(before=_before_fork, after_in_child=_in_forked_child)
