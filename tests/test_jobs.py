"""Job scripts and workflows run, and leave no store, however they end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fsexchange import FileKey

from .cli import installed
from .jobs import _ANYWHERE, needs_mpi
from .processes import ROOT

pytestmark = pytest.mark.slow

JOBS = ROOT / "examples" / "jobs"

# In place of a task: one that fails, and one that lets the test know when to end the job.
FAIL = "import sys\nsys.exit('no convergence')\n"
WAIT = "import sys, time\nopen(f'started{sys.argv[1]}', 'w').close()\ntime.sleep(600)\n"


class Job:
    """A folder with the examples, and the scripts that run in it, each in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        shutil.copytree(JOBS, folder)

    def start(self, *words: str | Path, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=installed(self.folder, **more),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """Return what a script shows; all that it has started has ended with it."""
        out, _ = process.communicate(timeout=110)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        return out

    def passes(self, *words: str | Path, **more: str) -> str:
        process = self.start(*words, **more)
        out = self.end(process)
        assert process.returncode == 0, out
        return out

    def replace(self, name: str, text: str) -> None:
        """Have another program in place of one of the examples'."""
        (self.folder / name).rename(self.folder / f"{name}.before")
        (self.folder / name).write_text(text)

    def restore(self, name: str) -> None:
        (self.folder / f"{name}.before").rename(self.folder / name)

    def wait_for_files(self, *names: str) -> None:
        deadline = time.monotonic() + 60
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """At its end neither a store nor a process is left of it."""
    job = Job(tmp_path / "job with blanks")
    try:
        yield job
    finally:
        for process in job.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    for pattern in ("*store*", "*fsexchange-*", "job-*", "shared"):
        assert not list(job.folder.glob(pattern))


@pytest.mark.parametrize("where", [[], ["shared"]])
def test_steps(job: Job, where: list[str]) -> None:
    lines = job.passes("bash", "steps.sh", *where).splitlines()[1:]
    assert FileKey.parse(lines[0]).nbytes == 2_000_128
    listed = [line.split()[-1] for line in lines[1:5]]
    assert listed == ["NAMES", "height", "smooth/1", "smooth/4"]
    assert re.fullmatch(r"spread 0\.\d+", lines[5])
    assert re.fullmatch(r"cleared .*: 3 files of objects, 5\.\d MiB", lines[6])
    assert np.load(job.folder / "smooth1.npy", mmap_mode="r").shape == (500, 500)


def test_array(job: Job) -> None:
    out = job.passes("bash", "array.sh", "3")
    assert "5 files of objects" in out
    smooth = [np.load(job.folder / f"smooth{times}.npy").std() for times in range(1, 5)]
    assert sorted(smooth, reverse=True) == smooth


@pytest.mark.parametrize("script", ["steps.sh", "array.sh"])
def test_task_that_fails_ends_the_job(job: Job, script: str) -> None:
    job.replace("smooth.py", FAIL)
    process = job.start("bash", script)
    out = job.end(process)
    assert process.returncode not in (0, None), out
    assert "no convergence" in out
    assert "cleared" in out


@pytest.mark.parametrize("script", ["steps.sh", "array.sh"])
@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, ["script"]),
        (signal.SIGTERM, ["all"]),
        (signal.SIGTERM, ["script", "all"]),
        (signal.SIGINT, ["all"]),
    ],
)
def test_signal_ends_the_job(job: Job, script: str, number: signal.Signals, to: list[str]) -> None:
    """To the script alone, as by kill(1), to all, as by Ctrl-C, or both, as by timeout(1)."""
    job.replace("smooth.py", WAIT)
    process = job.start("bash", script)
    job.wait_for_files("started1", "started2" if script == "array.sh" else "started4")
    for each in to:
        if each == "all":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    assert "cleared" in job.end(process)
    assert process.returncode == -number


@pytest.mark.parametrize("seconds", [1, 3, 6])
def test_time_limit(job: Job, seconds: int) -> None:
    """Whatever the job does when its time is up, as while it makes its store."""
    job.replace("smooth.py", WAIT)
    process = job.start("timeout", str(seconds), "bash", "steps.sh")
    job.end(process)
    assert process.returncode == 124


@needs_mpi
@pytest.mark.parametrize("hosts", [1, 2])
def test_steps_for_pbs(job: Job, hosts: int) -> None:
    """As PBS runs it, in the home directory and with a list of hosts."""
    nodes = ["localhost", socket.gethostname()][:hosts]  # mpirun takes its hosts from the list
    (job.folder / "nodes").write_text("".join(f"{node}\n{node}\n" for node in nodes))
    script = (job.folder / "pbs_steps.sh").read_text()
    (job.folder / "pbs_steps.sh").write_text(script.replace("/dev/shm", f'"{job.folder}"'))
    pbs = {"PBS_JOBID": "17.server", "PBS_O_WORKDIR": str(job.folder)}
    pbs["PBS_NODEFILE"] = str(job.folder / "nodes")
    words = ["bash", "-c", 'cd / && exec bash "$0"', str(job.folder / "pbs_steps.sh")]
    out = job.passes(*words, **_ANYWHERE, **pbs)
    store = job.folder / ("store-17" if hosts == 2 else "fsexchange-job-17")
    assert f"cleared {store}: 3 files of objects" in out
    assert re.search(r"^smooth/4: steps add up to \d+\.\d, as \d+ ranks found$", out, re.M)


QSUB = """#!/bin/bash
# A stand-in for PBS: runs a job, or an array of them, at once, and each as PBS does.
set -eu
while getopts v:J:W: option; do
    case $option in v) variables=$OPTARG ;; J) array=$OPTARG ;; W) after=$OPTARG ;; esac
done
shift $((OPTIND - 1))
run() {
    (
        IFS=,
        for one in $variables; do
            case $one in *=*) kept+=("$one") ;; *) kept+=("$one=${!one}") ;; esac
        done
        cd /
        env -i "${kept[@]}" "PBS_O_WORKDIR=$OLDPWD" "PYTHONPATH=$PYTHONPATH" "$@" >&2 || true
    )
}
if [ -n "${array-}" ]; then
    for n in $(seq "${array%-*}" "${array#*-}"); do run "PBS_ARRAY_INDEX=$n" bash "$PWD/$1"; done
    echo '18[].server'
else
    [ "$after" = 'depend=afterany:18[].server' ]
    run bash "$PWD/$1"
    echo 19.server
fi
"""


@pytest.mark.parametrize("failing", [False, True])
def test_array_for_pbs(job: Job, failing: bool) -> None:
    installed(job.folder)
    (job.folder / "bin" / "qsub").write_text(QSUB)
    (job.folder / "bin" / "qsub").chmod(0o700)
    if failing:
        task = (job.folder / "smooth.py").read_text()
        job.replace("smooth.py", task.replace("with Store()", "assert times != 2\nwith Store()"))
    out = job.passes("bash", "pbs_array.sh")
    assert "cleared" in out
    there = [(job.folder / f"smooth{times}.npy").exists() for times in range(1, 5)]
    assert there == [True, not failing, True, True], out
    assert ("nothing is named 'smooth/2'" in out) == failing


def test_pbs_scripts_differ_from_those_for_slurm_in_a_few_lines_alone() -> None:
    """PBS is not tested itself; what Slurm is tested with, it does too."""
    for name in ("steps", "array"):
        slurm = (JOBS / f"slurm_{name}.sh").read_text().splitlines()
        pbs = (JOBS / f"pbs_{name}.sh").read_text().splitlines()
        assert len([line for line in pbs if line not in slurm]) <= 13


@pytest.mark.parametrize("script", sorted(path.name for path in JOBS.glob("*.sh")))
def test_scripts_are_scripts_of_bash(script: str) -> None:
    lines = (JOBS / script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1].startswith("# ")
    assert len(lines) <= 60
    subprocess.run(["bash", "-n", JOBS / script], check=True)


def engine(name: str) -> list[str]:
    """Return the words that run an engine; skip where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"could not import {name!r}")
    return [sys.executable, "-m", name]


def test_doit(job: Job) -> None:
    words = engine("doit")
    made = [".  height", ".  smooth:1", ".  smooth:4", ".  collect"]
    job.replace("smooth.py", FAIL)
    process = job.start(*words)
    assert "no convergence" in job.end(process)
    assert process.returncode == 1
    job.restore("smooth.py")
    # What is in the store is not made again.
    again = job.passes(*words).splitlines()  # of the two at the same time either may be first
    assert sorted(again) == sorted(["-- height", *made[1:]])
    again = job.passes(*words).splitlines()
    assert sorted(again) == sorted(line.replace(". ", "--") for line in made)
    assert np.load(job.folder / "smooth4.npy").shape == (500, 500)
    assert "cleared" in job.passes(*words, "clean")


def test_snakemake(job: Job) -> None:
    words = [*engine("snakemake"), "--cores", "2"]
    job.replace("smooth.py", FAIL)
    process = job.start(*words)
    assert "no convergence" in job.end(process)
    assert process.returncode == 1
    job.restore("smooth.py")
    out = job.passes(*words)
    assert "rule height" not in out
    assert "cleared" in out
    assert np.load(job.folder / "smooth4.npy").shape == (500, 500)
    assert sorted(path.name for path in job.folder.glob("*.put")) == []
