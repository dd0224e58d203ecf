"""Capacity: how much memory this host, and the control groups of this process, have to give."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

# Where distributions mount the hierarchy that limits memory (cgroups(7)), the files that tell the
# limit, what is used, and of that the name of what the kernel drops when it needs memory.
_UNIFIED = ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ")
_LEGACY = (
    "/sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file ",
)

_MEMORY = "/proc/meminfo"

# Of the free memory this part is left to others.
_LEFT = 1 / 8


class _Group(NamedTuple):
    """A control group that limits the memory of this process."""

    limit: int
    usage: str
    statistics: str
    cache: str


def free_memory() -> int:
    """Return the bytes that this process can take before something else must go.

    A limit of a control group counts as it was when this was first called.
    """
    free = _number(_MEMORY, "MemAvailable:") * 1024
    for group in _groups():
        try:
            used = _number(group.usage) - _number(group.statistics, group.cache)
        except OSError:  # the process was moved to another one
            continue
        free = min(free, group.limit - used)
    return max(0, free)


def memory_to_share() -> int:
    """Return the bytes of memory that processes of this host may take for what they share."""
    return int(free_memory() * (1 - _LEFT))


@functools.cache
def _groups() -> list[_Group]:
    most = _number(_MEMORY, "MemTotal:") * 1024
    found = []
    with open("/proc/self/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        root, limit, usage, cache = _LEGACY if controllers else _UNIFIED
        while True:  # those above it count, too
            directory = f"{root}{path.rstrip('/')}"
            try:
                value = _number(f"{directory}/{limit}")
                statistics = f"{directory}/memory.stat"
                if value < most and _number(statistics, cache) >= 0:
                    found.append(_Group(value, f"{directory}/{usage}", statistics, cache))
            except (OSError, ValueError):  # "max"; a path that a container does not see
                pass
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return found


def _number(path: str, name: str = "") -> int:
    """Return the number after a name in a file; 0 if it has no such name."""
    with open(path) as file:
        for line in file:
            if line.startswith(name):
                return int(line[len(name) :].split()[0])
    return 0
