"""Memory of this process: the kernel says whether it was written to since it was last asked.

By userfaultfd(2) a range of pages is write-protected; the first write to each is let through and
noted (UFFD_FEATURE_WP_ASYNC, Linux 6.7), and PAGEMAP_SCAN of /proc/self/pagemap tells which were
(kernel documentation, admin-guide/mm/pagemap.rst). Elsewhere, and where a container forbids it,
nothing can be watched.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import struct
import weakref

from fsexchange.filesystem.faults import userfaultfd

# linux/userfaultfd.h
_REGISTER, _UNREGISTER, _WRITEPROTECT = 0xC020AA00, 0x8010AA01, 0xC018AA06
_UNPOPULATED, _ASYNC = 1 << 13, 1 << 15
_REGISTER_WP, _PROTECT = 1 << 1, 1 << 0

# linux/fs.h
_SCAN = 0xC0606610
_SCAN_ARGUMENT = struct.Struct("12Q")
_CHECK_ASYNC = 1 << 1
_WATCHED, _WRITTEN, _OF_FILE, _PRESENT = 1 << 0, 1 << 1, 1 << 2, 1 << 3

# Other devices may write to memory of a process by themselves (RDMA, GPUs), which no page tells.
_HARMLESS = re.compile(r"/dev/(null|zero|full|u?random|console|tty.*|ptmx|pts/.*|shm/.*)( .*)?")

# What descriptors that are no files lead to.
_FAULTS, _RING = "anon_inode:[userfaultfd]", "anon_inode:[io_uring]"


class WatchedMemory:
    """Ranges of this process's memory that are watched for writes. Not for a forked child.

    `OSError` from the constructor where nothing can be watched.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._pages = -1
        self._faults = userfaultfd(_UNPOPULATED | _ASYNC)
        try:
            self._pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise
        _all.add(self)

    def close(self) -> None:
        """Watch nothing any more."""
        opened = (self._pages, f"/proc/{self._pid}/pagemap"), (self._faults, _FAULTS)
        self._pages = self._faults = -1
        for fd, path in opened:
            if fd >= 0 and _path_of(fd) == path:  # else the user has closed it, and it is another's
                os.close(fd)

    def watch(self, address: int, nbytes: int) -> None:
        """Watch the whole pages of a range from now on; `OSError` for memory that cannot be.

        Only one range may be watched that has a given page: to watch it anew forgets its writes.
        Not noticed is the rest of a write by way of the kernel that is under way now: by another
        process (process_vm_writev), or of a file that 9p or FUSE read past the page cache unasked.
        """
        if os.getpid() != self._pid:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        start, length = whole_pages(address, nbytes)
        fcntl.ioctl(self._faults, _REGISTER, struct.pack("4Q", start, length, _REGISTER_WP, 0))
        try:
            fcntl.ioctl(self._faults, _WRITEPROTECT, struct.pack("3Q", start, length, _PROTECT))
            # Not before: what a device began to write until then is not noticed when it arrives.
            if _has_devices():
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        except BaseException:
            self.forget(address, nbytes)
            raise

    def forget(self, address: int, nbytes: int) -> None:
        """Do not watch a range any more; `OSError` if it is not this process's memory any more."""
        if os.getpid() != self._pid:
            return
        fcntl.ioctl(self._faults, _UNREGISTER, struct.pack("2Q", *whole_pages(address, nbytes)))

    def is_unwritten(self, address: int, nbytes: int) -> bool:
        """Return whether it is proven that nobody has written to the whole pages of a range.

        That is, each page is still protected, in memory, and of this process alone: a page of a
        file or of shared memory may be written to by another process, which has its own protection.
        Devices write without asking: if this process has one open, or a file past the page cache,
        nothing is proven. Nor in a forked child, whose memory is another one.
        """
        if os.getpid() != self._pid:
            return False
        start, length = whole_pages(address, nbytes)
        end = start + length
        regions = ctypes.create_string_buffer(24)
        argument = _SCAN_ARGUMENT.pack(
            _SCAN_ARGUMENT.size,
            _CHECK_ASYNC,
            start,
            end,
            0,
            ctypes.addressof(regions),
            1,
            0,
            _WRITTEN | _OF_FILE,  # which are to be absent
            _WATCHED | _WRITTEN | _OF_FILE | _PRESENT,
            0,
            _PRESENT,
        )
        try:
            found = fcntl.ioctl(self._pages, _SCAN, bytearray(argument))
            return (
                found == 1
                and struct.unpack("3Q", regions)[:2] == (start, end)
                and not _has_devices()
            )
        except OSError:  # also if no descriptor is left to look with
            return False


_all: weakref.WeakSet[WatchedMemory] = weakref.WeakSet()


def _in_forked_child() -> None:
    for memory in tuple(_all):
        memory.close()


# Else the parent's memory stays watched for as long as a child lives.
os.register_at_fork(after_in_child=_in_forked_child)


def whole_pages(address: int, nbytes: int) -> tuple[int, int]:
    """Return the address and the bytes of the pages that are wholly in a range."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, max(0, (address + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start)


def _has_devices() -> bool:
    """Return whether this process has open what may write to its memory by itself.

    That is a device, or a file past the page cache: what is read from it the disk writes.
    """
    for fd in os.listdir("/proc/self/fd"):
        path = _path_of(fd)
        if path == _RING or (path.startswith("/dev/") and not _HARMLESS.fullmatch(path)):
            return True
        if path.startswith("/"):
            with contextlib.suppress(OSError):  # closed by now
                if fcntl.fcntl(int(fd), fcntl.F_GETFL) & os.O_DIRECT:
                    return True
    return False


def _path_of(fd: int | str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # such as the descriptor of the listing
        return ""
