"""Capacity: how much memory this host, and the control groups of this process, have to give."""

from __future__ import annotations

import os

# Where distributions mount the hierarchy that limits memory (cgroups(7)), the files that tell the
# limit, what is used, and of that the name of what the kernel drops when it needs memory.
_UNIFIED = ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ")
_LEGACY = (
    "/sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file ",
)


def free_memory() -> int:
    """Return the bytes that this process can take before something else must go."""
    with open("/proc/meminfo") as file:
        free = _number_of("MemAvailable:", file.read()) * 1024
    with open("/proc/self/cgroup") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in groups:
        if not controllers:
            free = min(free, _free_in(path, *_UNIFIED))
        elif "memory" in controllers.split(","):
            free = min(free, _free_in(path, *_LEGACY))
    return free


def _free_in(path: str, root: str, limit: str, usage: str, cache: str) -> int:
    """Return what a control group and those above it leave; much if none of them has a limit."""
    free = 1 << 62
    while True:
        group = f"{root}/{path}"
        try:
            with open(f"{group}/{limit}") as file:
                most = file.read().strip()
            if most != "max":
                with open(f"{group}/{usage}") as file:
                    used = int(file.read())
                with open(f"{group}/memory.stat") as file:
                    droppable = _number_of(cache, file.read())
                free = min(free, int(most) - used + droppable)
        except OSError:
            pass  # the root has no limit; in a container the path may be one that it does not see
        if path in ("", "/"):
            return max(0, free)
        path = os.path.dirname(path)


def _number_of(name: str, text: str) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line[len(name) :].split()[0])
    return 0
