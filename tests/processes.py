"""Real processes for tests: interpreters, other users, full disks, traced system calls."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from .programs import __name__ as _programs

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "tests" / "programs"
STRICT = bool(os.environ.get("FSEXCHANGE_TEST_STRICT"))

# A user that owns nothing here.
NOBODY = 65534


def command(program: str, *args: str | os.PathLike[str]) -> list[str]:
    """Return the command line that runs one of `tests/programs` in the directory `ROOT`.

    As a module, so that it imports the tree under test. It writes no bytecode (-B), so that it
    makes the same system calls each time.
    """
    words = [sys.executable, "-B", "-W", "error", "-m", f"{_programs}.{program}"]
    return [*words, *map(str, args)]


def python(
    program: str,
    *args: str | os.PathLike[str],
    before: Sequence[str] = (),
    uid: int | None = None,
    timeout: float = 60,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of `tests/programs` to its end, `before` in front of the command line.

    With `uid` it becomes that user once everything is imported, as root's Python may be out of
    that user's reach.
    """
    words = [] if uid is None else ["as_user", str(uid)]
    words = [*words, program, *map(str, args)]
    done = subprocess.run(
        [*before, *command(*words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    if check:
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def fork(work: Callable[[], object]) -> int:
    """Return the pid of a forked child that does `work` and ends; with status 1 if that raises.

    A child that let an exception through would go on with the tests, as a second pytest.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def lacking(what: str) -> None:
    """Skip for the lack of something on this machine; where all must run (CI), fail."""
    if STRICT:
        pytest.fail(f"lacking: {what}")
    pytest.skip(what)


def needs_room(path: Path, gibibytes: int) -> None:
    """Skip where a file system is too small for a test of large objects."""
    if shutil.disk_usage(path).free < gibibytes << 30:
        lacking(f"{gibibytes} GiB free in {path.parent}")


def unprivileged() -> int | None:
    """Return the uid for a process whom permissions stop: root is stopped by none."""
    return NOBODY if os.geteuid() == 0 else None


def small_tmpfs(mount_point: Path, megabytes: int) -> list[str]:
    """Return what to run a command with so that it sees a tmpfs of its own at `mount_point`."""
    mount_point.mkdir(exist_ok=True)
    namespaces = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = f"mount -t tmpfs -o size={megabytes}m,mode=700 fsexchange-test {mount_point} && "
    before = [*namespaces, "sh", "-c", script + 'exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"]).returncode:
        lacking("the right to mount a tmpfs in a namespace")
    return before


@contextlib.contextmanager
def little_memory(megabytes: int) -> Iterator[list[str]]:
    """Yield what to run a command with so that a control group of its own limits its memory."""
    legacy = os.path.ismount("/sys/fs/cgroup/memory")
    group = Path("/sys/fs/cgroup", "memory" if legacy else "", f"fsexchange-test-{os.getpid()}")
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if legacy else "memory.max")
        limit.write_text(str(megabytes << 20))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        # Not `lacking`: in a container root itself may not have it.
        pytest.skip("no right to make a control group that limits memory")
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + 30
        while group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # its last process is not gone yet
                group.rmdir()
            time.sleep(0.05)


def read_only(path: Path) -> list[str]:
    """Return what to run a command with so that it sees a directory mounted read-only."""
    script = f'mount --bind -o ro {path} {path} && mount -o remount,bind,ro {path} && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"]).returncode:
        lacking("the right to mount in a namespace")
    return before


def strace(*options: str) -> list[str]:
    """Return what to run a command with so that its system calls are traced."""
    if shutil.which("strace") is None:
        lacking("strace")
    return ["strace", *options]
