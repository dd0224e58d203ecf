"""Real processes for tests: interpreters, other users, full disks, traced system calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STRICT = bool(os.environ.get("FSEXCHANGE_TEST_STRICT"))

# A user that owns nothing here.
NOBODY = 65534


def python(
    code: str,
    *args: str | os.PathLike[str],
    before: Sequence[str] = (),
    uid: int | None = None,
    timeout: float = 60,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own, `before` in front of the command line.

    With `uid` it becomes that user once everything is imported, as root's Python may be out of
    that user's reach.
    """
    code = textwrap.dedent(code)
    if uid is not None:
        code = f"import os, fsexchange, psutil\nos.setgid({uid})\nos.setuid({uid})\n{code}"
    done = subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    if check:
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


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


def strace(*options: str) -> list[str]:
    """Return what to run a command with so that its system calls are traced."""
    if shutil.which("strace") is None:
        lacking("strace")
    return ["strace", *options]
