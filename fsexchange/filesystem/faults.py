"""Faults: userfaultfd(2), by which a process decides what happens at page faults in its memory."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

# The number of the system call; it has no wrapper in libc.
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(platform.machine(), -1)
_USER_MODE_ONLY = 1  # which needs no privilege

# linux/userfaultfd.h
_API, _REGISTER, _UNREGISTER, _COPY = 0xC018AA3F, 0xC020AA00, 0x8010AA01, 0xC028AA03
_VERSION, _SHARED_MEMORY = 0xAA, 1 << 5
_REGISTER_MISSING = 1 << 0
_COPY_ARGUMENT = struct.Struct("4Qq")

# Bytes that are copied at a time, so that a signal's handler runs soon.
_PIECE = 1 << 23


def userfaultfd(features: int) -> int:
    """Return a new descriptor; `OSError` where the kernel, or a container, has no such thing."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(_USERFAULTFD, os.O_CLOEXEC | _USER_MODE_ONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    try:
        fcntl.ioctl(fd, _API, struct.pack("3Q", _VERSION, features, 0))
    except BaseException:
        os.close(fd)
        raise
    return fd


class Filler:
    """Gives mapped shared memory its pages together with their content.

    A store to a page that is not there yet faults, and gets it cleared. To copy it into its place
    costs as much as write(2), but does not lock the file: several processes can fill one at the
    same time. `OSError` from the constructor where that is not possible.
    """

    def __init__(self) -> None:
        self._fd = userfaultfd(_SHARED_MEMORY)

    def close(self) -> None:
        """Fill nothing any more."""
        os.close(self._fd)

    def fill(self, to: int, source: int, nbytes: int) -> int:
        """Copy to whole pages from any address, up to the first page that is there already.

        Return how many bytes. `OSError` if there is no memory for a page.
        """
        fcntl.ioctl(self._fd, _REGISTER, struct.pack("4Q", to, nbytes, _REGISTER_MISSING, 0))
        try:
            return self._copy(to, source, nbytes)
        finally:
            fcntl.ioctl(self._fd, _UNREGISTER, struct.pack("2Q", to, nbytes))

    def _copy(self, to: int, source: int, nbytes: int) -> int:
        # A function of its own, as CPython 3.12 and 3.13 have the end of a loop outside the `try`
        # around it. Where a signal's handler raises there, the memory would stay registered, and
        # whoever reads a page of it that is not there would wait for ever.
        done = 0
        while done < nbytes:
            piece = min(_PIECE, nbytes - done)
            argument = bytearray(_COPY_ARGUMENT.pack(to + done, source + done, piece, 0, 0))
            try:
                fcntl.ioctl(self._fd, _COPY, argument)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    break
                if error.errno != errno.EAGAIN:  # it got less far; so by another thread's mmap
                    raise
            done += max(0, _COPY_ARGUMENT.unpack(argument)[4])
        return done
