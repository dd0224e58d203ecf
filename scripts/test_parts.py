"""Run all tests, most of them in two processes side by side; scripts/test runs this.

The two share the tests by files: each takes the next one that the other has not. What is marked
`wide` keeps all cores busy by itself, and comes at last.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

# Seconds that a process has to clean up after an interrupt.
PATIENCE = 30


class Job(NamedTuple):
    """What one process runs, and what is said before its output."""

    title: str
    words: Sequence[str]
    environment: dict[str, str]


class Running(NamedTuple):
    """A job that was started, and where its output goes."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]


def side_by_side(jobs: Sequence[Job]) -> list[int]:
    """Run jobs, two at a time, and return their exit statuses.

    The output of each is shown whole, in the order of the jobs: that of the first that is not done
    as it comes.
    """
    started: list[Running] = []
    shown, at = 0, -1
    try:
        while shown < len(jobs):
            alive = sum(process.poll() is None for process, _ in started)
            for job in jobs[len(started) : len(started) + 2 - alive]:
                started.append(_start(job))
            process, output = started[shown]
            if at < 0:
                print(jobs[shown].title, flush=True)
                at = 0
            ended = process.poll() is not None
            while data := os.pread(output.fileno(), 1 << 16, at):
                sys.stdout.buffer.write(data)
                at += len(data)
            sys.stdout.flush()
            if ended:
                output.close()
                shown, at = shown + 1, -1
            else:
                time.sleep(0.1)
    except BaseException as error:
        # A terminal has sent its interrupt to all; a second one would stop their cleaning up.
        _end([process for process, _ in started], told=isinstance(error, KeyboardInterrupt))
        raise
    return [process.returncode for process, _ in started]


def _start(job: Job) -> Running:
    output = tempfile.TemporaryFile()  # noqa: SIM115
    environment = {**os.environ, **job.environment}
    process = subprocess.Popen(job.words, env=environment, stdout=output, stderr=subprocess.STDOUT)
    return Running(process, output)


def _end(processes: list[subprocess.Popen[bytes]], *, told: bool) -> None:
    """Let processes end, and what they have started."""
    for process in processes:
        if process.poll() is None and not told:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_when_terminated() -> None:
    """Have SIGTERM end this process as `sys.exit` does, and so what it runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def main() -> int:
    end_when_terminated()
    pytest = [sys.executable, "-m", "pytest", *(["--color=yes"] if sys.stdout.isatty() else [])]
    with tempfile.TemporaryDirectory() as claims:
        shared = {"FSEXCHANGE_TEST_CLAIMS": claims}
        parts = [
            Job(f"Part {n} of 3, beside the other", [*pytest, "-m", "not wide"], shared)
            for n in (1, 2)
        ]
        statuses = side_by_side(parts)
    statuses += side_by_side([Job("Part 3 of 3", [*pytest, "-m", "wide"], {})])
    print(f"scripts/test: {'failed' if any(statuses) else 'passed'}")
    return int(any(statuses))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
