"""The owner of a store: the one process that clears it, written down so that others can judge.

A store whose owner was killed must not stay for ever, and one whose owner lives must not be
cleared under it: the record says enough to tell the two apart.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import NamedTuple

from fsexchange import files

#: Seconds between two signs of life of an owner that other hosts may see.
HEARTBEAT = 30.0

# A sign of life may be late: a stopped job, a stalled server, mtimes of whole seconds.
_SILENT_AFTER = 10 * HEARTBEAT

# psutil has start times in hundredths of a second, relative to a boot time in whole ones.
_SAME_START = 2.0


class Owner(NamedTuple):
    """The record of a store: its id, its owner and what the owner decided for everyone."""

    store_id: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: float
    """When the process started, in seconds since the boot: tells it from a later one of its pid."""
    uid: int
    job: str
    """Id of the batch job, for people; empty outside of one."""
    clear: bool
    """Whether the store ends with its owner. A kept one is nobody's to clear unasked."""
    markers: bool
    heartbeat: bool
    """Whether the owner renews the record's mtime, for hosts that cannot see its process."""

    @classmethod
    def this_process(cls, store_id: str, *, clear: bool, markers: bool, heartbeat: bool) -> Owner:
        """Return the record of a store that the calling process owns."""
        pid = os.getpid()
        return cls(
            store_id=store_id,
            host=socket.gethostname(),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            pid=pid,
            started=_start_time(pid) or 0.0,
            uid=os.geteuid(),
            job=_job_id(),
            clear=clear,
            markers=markers,
            heartbeat=heartbeat,
        )

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the record in `text`; `ValueError` if it is none or only half of one."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def to_json(self) -> str:
        return json.dumps(self._asdict(), indent=1) + "\n"

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"

    def is_dead(self, record: str) -> bool:
        """Tell whether the owner is *proven* gone; `record` is the path of this record.

        On the same host the process table proves it, elsewhere a long silence: the record's age
        against that of a new file beside it, as clocks of hosts differ. When in doubt: False.
        """
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        visible = os.geteuid() in (0, self.uid)  # /proc may hide other users' processes: hidepid
        if visible and here == (self.host, self.boot_id, self.pid_namespace):
            started = _start_time(self.pid)
            return started is None or abs(started - self.started) > _SAME_START
        return self.heartbeat and _age(record) > _SILENT_AFTER


class Heartbeat:
    """A thread that renews a record's mtime until stopped. It does not survive a fork."""

    def __init__(self, record: str) -> None:
        self._record = record
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="fsexchange-heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            try:
                os.utime(self._record)  # "now" by the file server's clock, not by ours
            except OSError:
                # The store is gone or out of reach, which the verbs tell better than a thread.
                pass


def _age(path: str) -> float:
    """Return the seconds since the last change of `path`, by its own file system's clock."""
    probe = f"{path}-probe-{os.urandom(8).hex()}"
    files.create(probe, [], 0)
    try:
        return os.stat(probe).st_mtime - os.stat(path).st_mtime
    finally:
        files.unlink(probe)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # not Linux


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux


def _start_time(pid: int) -> float | None:
    """Return when a process started, in seconds since the boot; None if there is no such."""
    import psutil  # 12 ms, a seventh of importing numpy: only for who owns a store or judges one

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both are based on the same wall clock, so that setting the clock changes nothing here.
        return float(process.create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None


def _job_id() -> str:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "JOB_ID"):
        if os.environ.get(name):
            return os.environ[name]
    return ""
