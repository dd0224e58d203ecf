"""Check and test with every supported Python that this machine has; scripts/test --all runs this.

Each Python has a venv of its own. These are made first, one after the other, as each installation
writes into the project's directory, too; the oldest and the newest Python also make the checks.
Then come the tests, two Pythons at a time; at last those marked `wide`, which keep all cores busy
by themselves. What is marked `slow` runs with the newest Python alone. The oldest runs of the MPI
jobs only those of two ranks. Those between run no MPI jobs, and in /dev/shm alone what the others
test in the directory for temporary files, too; one of them does without what is in C.
"""

from __future__ import annotations

import configparser
import glob
import itertools
import os
import shutil
import signal
import subprocess
import sys

from test_parts import Job, end_when_terminated, side_by_side

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WITHOUT_C = os.path.join(ROOT, "scripts", "without_c")
# With pytest's --version only the venv is made.
CHECKS, NONE, NEWEST, OLDEST, BETWEEN = (
    ["--checks"],
    ["--version"],
    ["-m", "not wide"],
    ["-m", "not wide and not slow"],
    ["-m", "not mpi and not slow"],
)
ALONE = ["-m", "wide"]
ABOUT = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


CONFIG = configparser.ConfigParser()
CONFIG.read(os.path.join(ROOT, "setup.cfg"))
# A build of torch without CUDA, which only some places offer.
TORCH = CONFIG["options.extras_require"]["torch-cpu"].strip()


def supported() -> list[str]:
    """Return the versions that setup.cfg names, the oldest first."""
    names = [line.rpartition(" :: ") for line in CONFIG["metadata"]["classifiers"].splitlines()]
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


def finds_torch(python: str) -> bool:
    """Return whether pip finds the build of torch for a Python."""
    words = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", TORCH]
    return subprocess.run(words, capture_output=True).returncode == 0


class Runs:
    """What was run with each Python, and what of it failed."""

    def __init__(self, pythons: dict[str, str]) -> None:
        self.pythons = pythons
        self.failed: dict[str, list[str]] = {version: [] for version in pythons}
        self.ends = [list(pythons)[n] for n in sorted({0, len(pythons) - 1})]
        self.extras = dict.fromkeys(pythons, "") | {self.ends[-1]: "more-kinds,engines"}
        with_torch = next((version for version in pythons if finds_torch(pythons[version])), None)
        if with_torch is None:
            print(f"scripts/test --all: pip finds no {TORCH}: its objects are not tested")
        else:
            self.extras[with_torch] = f"{self.extras[with_torch]},torch-cpu".lstrip(",")

    def test(self, *runs: tuple[str, list[str]]) -> None:
        """Run scripts/test with Pythons and arguments, two at a time."""
        jobs = [self._job(version, arguments) for version, arguments in runs]
        for (version, _), job, status in zip(runs, jobs, side_by_side(jobs), strict=True):
            if status:
                self.failed[version].append(job.title)

    def _job(self, version: str, arguments: list[str]) -> Job:
        words = ["scripts/test", *arguments]
        environment = {
            "PYTHON": self.pythons[version],
            "MORE_EXTRAS": self.extras[version],
            "FSEXCHANGE_TEST_IN_MEMORY_ONLY": "" if version in self.ends else "1",
            "FSEXCHANGE_TEST_MORE_RANKS": "1",
            "FSEXCHANGE_TEST_SLURM": "1" if version == self.ends[-1] else "",
            "FSEXCHANGE_TEST_RANKS": "" if version == self.ends[-1] else "2",
        }
        if version in list(self.pythons)[1:2] and version not in self.ends:
            environment["PYTHONPATH"] = WITHOUT_C
        return Job(f"Python {version}: {subprocess.list2cmdline(words)}", words, environment)


def main() -> int:
    pythons = {version: path for version in supported() if (path := find_python(version))}
    if not pythons:
        sys.exit("scripts/test --all: this machine has no Python that setup.cfg names")
    end_when_terminated()
    os.chdir(ROOT)
    runs = Runs(pythons)
    for version in pythons:
        runs.test((version, CHECKS if version in runs.ends else NONE))
    between = [version for version in pythons if version not in runs.ends]
    *oldest, newest = runs.ends
    runs.test(  # the longest first
        (newest, NEWEST),
        *((version, OLDEST) for version in oldest),
        *((version, BETWEEN) for version in between),
    )
    for version in runs.ends:
        runs.test((version, ALONE))
    for title in itertools.chain(*runs.failed.values()):
        print(f"scripts/test --all: failed: {title}")
    passed = [
        f"{version} ({'all tests' if version == runs.ends[-1] else 'some tests'})"
        for version, commands in runs.failed.items()
        if not commands
    ]
    print(f"scripts/test --all: passed with Python: {', '.join(passed) or 'none'}")
    return 0 if len(passed) == len(pythons) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
