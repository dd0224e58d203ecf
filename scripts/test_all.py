"""Check and test with every supported Python that this machine has; scripts/test --all runs this.

Each Python has a venv of its own. The checks run one Python after the other, as they also make the
venvs; then the tests without MPI, two Pythons at a time; at last the MPI jobs of two ranks with the
oldest Python, and all of them with the newest, one job at a time, as the ranks of one job keep all
cores busy. The Pythons between test in /dev/shm alone what the others test in the directory for
temporary files, too.
"""

from __future__ import annotations

import configparser
import glob
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKS, WITHOUT_MPI, WITH_MPI = ("--checks",), ("-m", "not mpi"), ("-m", "mpi")
ABOUT = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


def supported() -> list[str]:
    """Return the versions that setup.cfg names, the oldest first."""
    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"))
    names = [line.rpartition(" :: ") for line in config["metadata"]["classifiers"].splitlines()]
    return [version for head, _, version in names if head.endswith(":: Python") and "." in version]


def find_python(version: str) -> str | None:
    """Return the path of a Python of that version that can make a venv, if there is one."""
    candidates = [sys.executable, f"python{version}"]
    if shutil.which("pyenv"):  # its python3.12 on PATH may only say that 3.12 is not the one chosen
        versions = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True).stdout
        candidates += sorted(glob.glob(f"{versions.strip()}/versions/{version}.*/bin/python"))
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", ABOUT], capture_output=True, text=True)
        except FileNotFoundError:
            continue
        found, _, path = done.stdout.strip().partition(" ")
        if found == version:
            return path
    return None


class Runs:
    """What was run with each Python, and what of it failed."""

    def __init__(self, pythons: dict[str, str]) -> None:
        self.pythons = pythons
        self.failed: dict[str, list[str]] = {version: [] for version in pythons}
        self.ends = [list(pythons)[n] for n in sorted({0, len(pythons) - 1})]

    def test(self, version: str, arguments: tuple[str, ...], *, show: bool = True) -> None:
        """Run scripts/test with one Python; show its output as it comes, or else when it ends."""
        words = subprocess.list2cmdline(["scripts/test", *arguments])
        print(f"Python {version}: {words}", flush=True)
        done = subprocess.run(
            [os.path.join(ROOT, "scripts", "test"), *arguments],
            env={
                **os.environ,
                "PYTHON": self.pythons[version],
                "MORE_EXTRAS": "more-kinds,engines" if version == self.ends[-1] else "",
                "FSEXCHANGE_TEST_IN_MEMORY_ONLY": "" if version in self.ends else "1",
                "FSEXCHANGE_TEST_MORE_RANKS": "1",
                "FSEXCHANGE_TEST_RANKS": "" if version == self.ends[-1] else "2",
            },
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
            text=True,
        )
        if not show:
            print(f"Python {version}: {words}\n{done.stdout}", flush=True)
        if done.returncode:
            self.failed[version].append(words)


def main() -> int:
    pythons = {version: path for version in supported() if (path := find_python(version))}
    if not pythons:
        sys.exit("scripts/test --all: this machine has no Python that setup.cfg names")
    runs = Runs(pythons)
    for version in pythons:
        runs.test(version, CHECKS)
    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda version: runs.test(version, WITHOUT_MPI, show=False), pythons))
    for version in runs.ends:
        runs.test(version, WITH_MPI)
    for version, commands in runs.failed.items():
        for words in commands:
            print(f"scripts/test --all: failed with Python {version}: {words}")
    passed = [
        f"{version} ({'all tests' if version == runs.ends[-1] else 'some tests'})"
        for version, commands in runs.failed.items()
        if not commands
    ]
    print(f"scripts/test --all: passed with Python: {', '.join(passed) or 'none'}")
    return 0 if len(passed) == len(pythons) else 1


if __name__ == "__main__":
    sys.exit(main())
