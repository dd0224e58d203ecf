"""The machine that measures: its processor, its versions, its file systems."""

import os
import platform

import numpy as np
import psutil


def cpu():
    with open("/proc/cpuinfo") as lines:
        return next((line.split(": ")[1].strip() for line in lines if "model name" in line), "?")


def about(**versions):
    """Return what figures depend on, with the versions of the peers."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **versions,
    }


def kind_of(folder):
    """Return the kind of the file system that a directory is on, as the kernel names it."""
    kinds = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    path = os.path.realpath(folder)
    while path not in kinds and path != "/":
        path = os.path.dirname(path)
    return kinds.get(path, "unknown")
