"""Programs that are stopped, and killed, at any of their system calls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from .processes import ROOT, command, strace

# Calls that change nothing which others see: a kill before one of these leaves what a kill before
# the next other call leaves.
HARMLESS = {
    *("brk", "clock_nanosleep", "close", "fcntl", "fstat", "fstatfs", "futex", "getcwd"),
    *("getdents64", "geteuid", "getpid", "getrandom", "gettid", "getuid", "inotify_init1"),
    *("ioctl", "lseek", "lstat", "madvise", "mmap", "mprotect", "munmap", "newfstatat", "poll"),
    *("pread64", "preadv", "preadv2", "read", "readlink", "readv", "rt_sigaction"),
    *("rt_sigprocmask", "stat", "statfs", "statx", "uname"),
}


class Victims:
    """Runs `tests/programs` under strace, one after the other, each in a fork of one process.

    An interpreter that starts makes thousands of system calls, at each of which strace stops it.
    """

    def __enter__(self) -> Victims:
        strace()  # without it no program may begin, and wait for it
        self._process = subprocess.Popen(
            command("fork_victims"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def start(self, trace: list[str], program: str, *args: str | Path) -> None:
        """Start a program with strace's options; it ends without exit handlers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([program, *map(str, args)]) + "\n")
        self._process.stdin.flush()
        self.pid = pid = self._read()
        self._tracer = subprocess.Popen(
            strace(*trace, "-p", str(pid)), stderr=subprocess.PIPE, text=True
        )
        assert self._tracer.stderr is not None
        attached = self._tracer.stderr.readline()
        os.kill(pid, signal.SIGCONT)
        assert "attached" in attached, attached

    def finish(self) -> int:
        """Wait for the end of the program, and return its exit status, or minus a signal."""
        status = os.waitstatus_to_exitcode(self._read())
        self._tracer.communicate()
        return status

    def kill(self, call: str, occurrence: int, program: str, *args: str | Path) -> None:
        """Run a program that is killed before one of its system calls."""
        inject = f"inject={call}:signal=KILL:when={occurrence}"
        self.start(["-o", "/dev/null", "-e", inject], program, *args)
        assert self.finish() == -signal.SIGKILL

    def system_calls(self, log: Path, program: str, *args: str | Path) -> list[tuple[str, int]]:
        """Return the system calls between the marks that change something, and the mark at the end.

        They are numbered among those that the program makes once it is traced.
        """
        self.start(["-o", str(log)], program, *args)
        assert self.finish() == 0
        counts: dict[str, int] = {}
        calls: list[tuple[str, int]] = []
        inside = False
        for line in log.read_text().splitlines():
            found = re.match(r"(\w+)\(", line)
            if found is None:
                continue
            counts[found[1]] = counts.get(found[1], 0) + 1
            if "fsexchange-end" in line:
                return [*calls, ("access", counts["access"])]
            opens = found[1] in ("open", "openat") and "O_CREAT" not in line
            if inside and found[1] not in HARMLESS and not opens:
                calls.append((found[1], counts[found[1]]))
            inside = inside or "fsexchange-begin" in line
        raise AssertionError("the marks were not seen")

    def _read(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())
