"""What this host says of a directory: its mount, its room, its limits. Nothing is written."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from fsexchange.cli.findings import Finding, Level
from fsexchange.cli.output import size
from fsexchange.filesystem.kinds import POLICIES, find_filesystem

# With less, the next array may not fit.
_LITTLE = 1 << 30
_NOTHING = 1 << 20
_FEW_INODES = 1000

_ESCAPE = re.compile(r"\\([0-7]{3})")

# Mount options of a kind of file system -> level, what it does, what to do.
_OPTIONS: dict[tuple[str, str], tuple[Level, str, str]] = {
    ("nfs", "nocto"): (
        "matters",
        "this host does not ask the server as it opens a file, and may read an object that was "
        "replaced, or believe in one that was evicted",
        "have it mounted without nocto",
    ),
    ("nfs", "noac"): (
        "matters",
        "each look at a file asks the server, which makes everything slow",
        "have it mounted without noac: fsexchange needs no coherent attributes",
    ),
    ("nfs", "soft"): (
        "matters",
        "a server that is slow for a while makes reads and writes fail",
        "have it mounted with hard",
    ),
    ("nfs", "lookupcache=none"): (
        "note",
        "each look for a name asks the server: sets are seen at once, and all else is slower",
        "",
    ),
    ("nfs", "lookupcache=pos"): ("note", "names that were missing are asked for again", ""),
    ("lustre", "noflock"): ("note", "locks are refused here; fsexchange takes none on Lustre", ""),
    ("lustre", "localflock"): (
        "note",
        "locks count on one host only; fsexchange takes none on Lustre",
        "",
    ),
    ("", "sync"): (
        "matters",
        "each write waits for the disk",
        "have it mounted without sync: fsexchange promises no durability",
    ),
    ("", "ro"): ("unfit", "it is read-only", "choose another directory"),
}


class Mount(NamedTuple):
    """Where a directory is mounted from."""

    point: str
    root: str
    """Which directory of its file system is at the mount point."""
    kind: str
    source: str
    options: frozenset[str]


def mount_of(path: str) -> Mount | None:
    """Return the mount that a directory is on; None without /proc."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best: Mount | None = None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                fields, (kind, source, *rest) = left.split(), right.split()
                point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
                if os.path.commonpath((real, point)) != point or fields[2] != wanted:
                    continue
                if best is None or len(point) >= len(best.point):  # the later hides the earlier
                    options = frozenset(",".join((fields[5], *rest)).split(","))
                    best = Mount(point, fields[3], kind, source, options)
    except OSError:
        return None
    return best


def look(path: str) -> Iterator[Finding]:
    """Yield what this host says of a directory."""
    kind, policy = find_filesystem(path)
    told = [
        "hosts may share it" if policy.network else "one host uses it",
        "large objects are mapped" if policy.mappable else "large objects are read into memory",
    ]
    if kind in POLICIES:
        yield Finding("ok", "file system", f"{kind}: {', '.join(told)}")
    else:
        yield Finding(
            "matters",
            "file system",
            f"{kind}, of which fsexchange knows nothing: {', '.join(told)}",
            "expect no speed; a directory on a file system that is known may be faster",
        )
    mount = mount_of(path)
    if mount is not None:
        yield from _options(mount)
        yield from _private(path, mount)
    if kind == "lustre":
        yield from _stripe(path)
    yield from _room(path)
    yield from _quota(path, network=policy.network)
    if kind in ("tmpfs", "ramfs"):
        yield from _memory(path)


def _options(mount: Mount) -> Iterator[Finding]:
    family = "nfs" if mount.kind.startswith("nfs") else mount.kind
    bad = False
    for (of, option), (level, what, remedy) in _OPTIONS.items():
        if of in ("", family) and option in mount.options:
            bad = True
            yield Finding(level, "mount options", f"{option}: {what}", remedy)
    if not bad:
        yield Finding("ok", "mount options", ",".join(sorted(mount.options)))


def _private(path: str, mount: Mount) -> Iterator[Finding]:
    """A job's own /tmp, or a container's, is a directory of a larger file system."""
    if mount.point in ("/tmp", "/var/tmp", "/dev/shm") and mount.root != "/":
        yield Finding(
            "matters",
            "private",
            f"{mount.point} is this job's or service's alone (it is {mount.root} elsewhere), and "
            "may go with it",
            "for other jobs, or later ones, choose a directory outside of it",
        )
    elif mount.point == "/dev/shm" and os.path.exists("/.dockerenv"):
        yield Finding("note", "private", "/dev/shm is this container's alone: see --shm-size")


def _stripe(path: str) -> Iterator[Finding]:
    if shutil.which("lfs") is None:
        return
    done = subprocess.run(
        ["lfs", "getstripe", "-d", "-c", path], capture_output=True, text=True, timeout=30
    )
    if done.stdout.strip() in ("0", "1"):
        yield Finding(
            "note",
            "stripe",
            "a file is on one server (stripe count 1)",
            f"for arrays of gigabytes: lfs setstripe -c 4 {shlex.quote(path)}",
        )


def _room(path: str) -> Iterator[Finding]:
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    told = f"{size(free)} free"
    if free < _NOTHING:
        yield Finding("unfit", "space", told, "free space, or choose another directory")
    elif free < _LITTLE:
        yield Finding(
            "matters", "space", told, "evict objects, run fsexchange gc, or choose another"
        )
    else:
        yield Finding("ok", "space", told)
    if status.f_files:  # 0 where inodes are made as needed
        told = f"{status.f_favail:,} inodes free"
        if status.f_favail < 10:
            yield Finding("unfit", "inodes", told, "remove files, or choose another directory")
        elif status.f_favail < _FEW_INODES:
            yield Finding(
                "matters", "inodes", told, "put many objects at once: put_batch shares files"
            )
        else:
            yield Finding("ok", "inodes", told)


_SYS_QUOTACTL_FD = 443  # the same on all architectures
_GET_QUOTA = 0x800007  # quota.h
_DQBLK = struct.Struct("=8QI4x")


def _quota(path: str, *, network: bool) -> Iterator[Finding]:
    """By quotactl_fd(2), which file systems of one host answer; others have commands of theirs."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    answered = False
    try:
        for number, who, whose in ((0, os.geteuid(), "your"), (1, os.getegid(), "your group's")):
            answer = ctypes.create_string_buffer(_DQBLK.size)
            command = ctypes.c_uint(_GET_QUOTA << 8 | number)
            if libc.syscall(_SYS_QUOTACTL_FD, fd, command, ctypes.c_uint(who), answer) != 0:
                continue
            answered = True
            hard, soft, used, ihard, isoft, inodes, *_ = _DQBLK.unpack(answer)
            limit = 1024 * min((n for n in (hard, soft) if n), default=0)
            ilimit = min((n for n in (ihard, isoft) if n), default=0)
            if limit and limit - used < _LITTLE:
                told = f"{size(max(0, limit - used))} of {whose} quota of {size(limit)} are left"
                level: Level = "unfit" if limit - used < _NOTHING else "matters"
                yield Finding(level, "quota", told, "remove files, or choose another directory")
            elif ilimit and ilimit - inodes < _FEW_INODES:
                told = f"{max(0, ilimit - inodes):,} of {whose} {ilimit:,} inodes are left"
                yield Finding("matters", "quota", told, "remove files, or choose another directory")
            elif limit:
                yield Finding("ok", "quota", f"{size(limit - used)} of {whose} {size(limit)} left")
    finally:
        os.close(fd)
    if network and not answered:
        told = f"cannot be asked for here: see quota -s, or lfs quota {shlex.quote(path)}"
        yield Finding("note", "quota", told)


def _memory(path: str) -> Iterator[Finding]:
    """Objects in memory count to the job's limit: the kernel kills a job that is beyond it."""
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    left = memory_left()
    if left is not None and left < free:
        yield Finding(
            "matters",
            "memory",
            f"objects here are in memory, of which this job may use {size(left)} more: less than "
            f"the {size(free)} free here",
            "ask for more memory (sbatch --mem), or choose a directory on a disk",
        )
    else:
        yield Finding("note", "memory", "objects here are in memory, until they are evicted")


def memory_left(root: str = "/sys/fs/cgroup") -> int | None:
    """Return how many bytes of memory the control groups of this process allow it; None: any."""
    left = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    for _, controllers, group in lines:
        if controllers == "":
            top, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = f"{root}/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        while True:  # a limit counts for all groups below
            try:
                limit, used = (_number(f"{top}{group}/{name}") for name in names)
            except (OSError, ValueError):
                pass  # "max": no limit; a container does not see the groups above its own
            else:
                if limit < 1 << 60:
                    left.append(max(0, limit - used))
            if group in ("", "/"):
                break
            group = os.path.dirname(group)
    return min(left, default=None)


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
