"""What a directory's file system can do, and how fast: tried in a directory of the doctor's own."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from fsexchange.cli.findings import Finding
from fsexchange.cli.output import size
from fsexchange.connector import FileConnector
from fsexchange.errors import FsExchangeError
from fsexchange.filesystem.files import fallocate
from fsexchange.filesystem.kinds import Policy, find_filesystem
from fsexchange.filesystem.publish import RENAMING

_TEXT = b"fsexchange doctor"
_PUNCH_HOLE = 1 | 2  # falloc.h: with the size kept

# The child may get a signal from the mapping.
_UNLINK_WHILE_MAPPED = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
data = mmap.mmap(fd, 8192, prot=mmap.PROT_READ)
os.close(fd)
os.unlink(sys.argv[1])
sys.exit(data[:] != bytes(8192))
"""


def try_primitives(scratch: str) -> Iterator[Finding]:
    """Yield for each primitive whether it works."""
    policy = find_filesystem(scratch).policy
    markers = "make stores with markers=True"
    mapping: Finding
    if policy.mappable:
        remedy = "choose another directory: arrays of readers could be lost"
        mapping = Finding("unfit", "", "a mapping loses its pages when its file is removed", remedy)
    else:
        mapping = Finding("note", "", "a mapping loses its pages, so objects are read")
    trials: list[tuple[str, Callable[[str], bool], Finding]] = [
        (
            "O_EXCL",
            _exclusive,
            Finding("unfit", "", "two processes can make one file", "choose another directory"),
        ),
        ("rename", _rename, Finding("matters", "", "there is no rename over a file", markers)),
        ("link", _link, Finding("matters", "", "there are no hard links", markers)),
        ("sticky bit", _sticky, Finding("matters", "", "modes of files are not kept", markers)),
        ("mmap", _map, Finding("note", "", "files cannot be mapped, so they are read")),
        ("unlink while mapped", _unlink_while_mapped, mapping),
        ("O_DIRECT", _direct, Finding("note", "", "the client's cache cannot be bypassed")),
        (
            "punch hole",
            _punch,
            Finding("note", "", "small objects of a batch free no space before the last"),
        ),
    ]
    working = []
    for name, trial, else_finding in trials:
        try:
            works = trial(f"{scratch}/{name.replace(' ', '-')}")
            why = ""
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "free space and inodes, or choose another directory"
                yield Finding("unfit", "primitives", f"cannot try {name}: {error.strerror}", remedy)
                return
            works, why = False, f" ({error.strerror})"
        if works:
            working.append(name)
        else:
            yield else_finding._replace(check=name, what=f"{else_finding.what}{why}")
    yield Finding("ok", "primitives", f"these work: {', '.join(working)}")


def _make(path: str, data: bytes = _TEXT) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _exclusive(path: str) -> bool:
    _make(path)
    try:
        _make(path)
    except FileExistsError:
        return True
    return False


def _rename(path: str) -> bool:
    _make(path)
    _make(f"{path}-old", b"old")
    os.rename(path, f"{path}-old")
    return _read(f"{path}-old") == _TEXT and not os.path.exists(path)


def _link(path: str) -> bool:
    _make(path)
    os.link(path, f"{path}-new")
    try:
        os.link(path, f"{path}-new")
    except OSError:
        return _read(f"{path}-new") == _TEXT
    return False


def _sticky(path: str) -> bool:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o1600))
    if not RENAMING.is_stamped(path):
        os.chmod(path, 0o1600)
    return RENAMING.is_stamped(path)


def _map(path: str) -> bool:
    _make(path, bytes(8192))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ) as data:
        return data[:] == bytes(8192)


def _unlink_while_mapped(path: str) -> bool:
    _make(path, bytes(8192))
    words = [sys.executable, "-S", "-c", _UNLINK_WHILE_MAPPED, path]
    return subprocess.run(words, capture_output=True).returncode == 0


def _direct(path: str) -> bool:
    _make(path, bytes(4096))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, 4096) as page:
            return os.preadv(fd, [page], 0) == 4096
    finally:
        os.close(fd)


def _punch(path: str) -> bool:
    _make(path, bytes(1 << 17))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return bool(fallocate(fd, _PUNCH_HOLE, 0, 1 << 16) == 0)
    finally:
        os.close(fd)


# Of one kind of policy: the slowest put and get of 16 MiB in bytes a second, and of 1 KiB in
# seconds, that a file system of it should have.
_LOCAL = (100 << 20, 100 << 20, 1e-3)
_NETWORK = (10 << 20, 10 << 20, 50e-3)
_LARGE = 16 << 20


def try_speed(scratch: str) -> Iterator[Finding]:
    """Yield how fast objects are put and got, beside what this kind should do; 3 s at most."""
    policy = find_filesystem(scratch).policy
    status = os.statvfs(scratch)
    large = min(_LARGE, status.f_bavail * status.f_frsize // 8)
    try:
        with FileConnector(f"{scratch}/store") as connector:
            puts, gets = _times(connector, large, 5)
            small_puts, small_gets = _times(connector, 1024, 50)
    except FsExchangeError as error:
        yield Finding("unfit", "store", str(error), "see above, or choose another directory")
        return
    put, get = large / puts, large / gets
    small = small_puts + small_gets
    told = (
        f"{size(large)}: put {size(int(put))}/s, get {size(int(get))}/s; "
        f"1 KiB: put {small_puts * 1e6:,.0f} us, get {small_gets * 1e6:,.0f} us"
    )
    wanted = _wanted(policy)
    if large >= 1 << 20 and (put < wanted[0] or get < wanted[1]):
        more = f"at least {size(int(wanted[0]))}/s"
    elif small > 2 * wanted[2]:
        more = f"at most {wanted[2] * 1e6:,.0f} us"
    else:
        yield Finding("ok", "speed", told)
        return
    yield Finding(
        "matters",
        "speed",
        f"{told}; expected of a file system of its kind is {more}",
        "see whether it is busy, by fsexchange bench at another time; or choose another directory",
    )


def _wanted(policy: Policy) -> tuple[float, float, float]:
    return _NETWORK if policy.network else _LOCAL


def _times(connector: FileConnector, nbytes: int, times: int) -> tuple[float, float]:
    """Return the median seconds of a put and of a get with all bytes read, within a second."""
    data = os.urandom(min(nbytes, 1 << 16)) * -(-nbytes // (1 << 16))
    data = data[:nbytes]
    puts, gets = [], []
    deadline = time.monotonic() + 1.0
    for _ in range(times):
        begin = time.perf_counter()
        key = connector.put(data)
        middle = time.perf_counter()
        got = connector.get(key)
        if got is None or bytes(got[-1:]) != data[-1:]:
            raise FsExchangeError("an object that was just put reads otherwise")
        sum(memoryview(got)[::4096])  # touches the pages of a mapping
        gets.append(time.perf_counter() - middle)
        puts.append(middle - begin)
        del got
        connector.evict(key)
        if time.monotonic() > deadline:
            break
    return statistics.median(puts), statistics.median(gets)


@contextlib.contextmanager
def scratch_in(directory: str) -> Iterator[str]:
    """Make a directory of the doctor's own, which goes in the end."""
    path = f"{directory}/fsexchange-doctor-{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: str) -> None:
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{name}")
        for patience in range(40):
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    break
                time.sleep(0.05 * (patience > 0))  # FUSE: a removed file that was just in use
            else:
                break
