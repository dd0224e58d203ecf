"""Processes, written down for people; and whether one lives, by a lock on what it wrote."""

from __future__ import annotations

import json
import os
from typing import NamedTuple


class Process(NamedTuple):
    """Which process wrote a record."""

    host: str
    pid: int
    uid: int
    job: str
    """Id of the batch job; empty outside of one."""

    @classmethod
    def this(cls) -> Process:
        """Return the calling process."""
        return cls(os.uname().nodename, os.getpid(), os.geteuid(), _job_id())

    @classmethod
    def from_json(cls, text: str) -> Process:
        """Return the process in `text`; `ValueError` if it is none, or incomplete."""
        try:
            fields = json.loads(text)
            process = cls(**{name: fields[name] for name in cls._fields})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if list(map(type, process)) != [str, int, int, str]:
            raise ValueError(f"no process: {process}")
        return process

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(self._asdict())

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


#: Stands for a process of which nothing is written down.
UNKNOWN = Process("an unknown host", 0, 0, "")


def _job_id() -> str:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "JOB_ID"):
        if os.environ.get(name):
            return os.environ[name]
    return ""
