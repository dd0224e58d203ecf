"""Processes, written down for people, and for others to tell which of them are dead for sure."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any, NamedTuple


class Process(NamedTuple):
    """Which process wrote a record."""

    host: str
    pid: int
    uid: int
    job: str
    """Id of the batch job; empty outside of one."""
    boot: str = ""
    """Id of the boot of its kernel; empty if not known, as in records of earlier versions."""
    pids: str = ""
    """The namespace in which its pid counts; empty if not known."""
    started: str = ""
    """When it started, in ticks since the boot; empty if not known. No later process has its pid
    and this time."""

    @classmethod
    def this(cls) -> Process:
        """Return the calling process."""
        return cls(
            *(os.uname().nodename, os.getpid(), os.geteuid(), _job_id()),
            *(_boot_id(), _pid_namespace(), _started(os.getpid())),
        )

    @classmethod
    def from_json(cls, text: str) -> Process:
        """Return the process in `text`; `ValueError` if it is none, or incomplete."""
        try:
            fields: dict[str, Any] = {**cls._field_defaults, **json.loads(text)}
            process = cls(**{name: fields[name] for name in cls._fields})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from None
        kinds = [int if name in ("pid", "uid") else str for name in cls._fields]
        if list(map(type, process)) != kinds:
            raise ValueError(f"no process: {process}")
        return process

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(self._asdict())

    def is_dead(self) -> bool:
        """Return whether it is proven dead: no process of its kernel and namespace has its pid.

        False for one of another kernel or namespace, of which nothing can be known here. The name
        of the host counts, too: clones of a virtual machine may have one boot id.
        """
        if not self._counts_here():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's has the number by now, or it became another user's
        return False

    def is_running(self) -> bool:
        """Return whether it is proven to run, even as another program.

        False for one of another kernel or namespace, or that did not note when it started.
        """
        return self._counts_here() and self.started != "" and self.started == _started(self.pid)

    def _counts_here(self) -> bool:
        """Return whether its pid means here what it meant there."""
        here = os.uname().nodename, _boot_id(), _pid_namespace()
        return all(here) and (self.host, self.boot, self.pids) == here

    def is_of_an_earlier_boot(self) -> bool:
        """Return whether a host of this name has another boot id here and now.

        It proves something only together with silence: two hosts may have one name.
        """
        here = _boot_id()
        return bool(self.boot and here) and self.host == os.uname().nodename and self.boot != here

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


#: Stands for a process of which nothing is written down.
UNKNOWN = Process("an unknown host", 0, 0, "")


@lru_cache(1)
def _boot_id() -> str:
    return _content("/proc/sys/kernel/random/boot_id").decode().strip()


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a running process started, in ticks; empty if none runs, or without /proc."""
    # Its name comes second, in parentheses, and may have others in it: proc(5).
    fields = _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    ended = not fields or fields[0] in (b"Z", b"X")  # and nobody has waited for it
    return "" if ended else fields[19].decode()


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _job_id() -> str:
    names = "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "JOB_ID"
    return next(filter(None, map(os.environ.get, names)), "")
