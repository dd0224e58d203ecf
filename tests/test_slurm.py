"""Jobs of a real Slurm: steps, arrays and ranks share stores, and what killed jobs leave goes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from .cli import fsexchange, installed
from .slurm import Slurm, wait_until
from .test_jobs import FAIL, JOBS, WAIT

pytestmark = [pytest.mark.slurm, pytest.mark.mpi, pytest.mark.timeout(180)]

# An Exchange with 64 MiB in a store for which no directory is named.
RANKS = """
import os, time
import numpy as np
from fsexchange.mpi import Exchange

ex = Exchange()
ex.put(np.zeros(1 << 22))
ex.barrier()
open(f"started{ex.rank}", "w").close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with Slurm() as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """The cluster, without jobs before and after a test."""
    yield cluster
    cluster.become_quiet()
    cluster.set_epilog("#!/bin/sh\n")


@pytest.fixture
def new_job(tmp_path: Path, shm_dir: Path) -> Iterator[Callable[[], Path]]:
    """Make folders with the examples, in which no store is left; what is in memory is in one, too.

    So that nothing of this machine is touched.
    """
    made: list[Path] = []

    def make() -> Path:
        folder = tmp_path / f"job{len(made)}"
        shutil.copytree(JOBS, folder)
        for script in folder.glob("*.sh"):
            script.write_text(script.read_text().replace("/dev/shm", str(shm_dir)))
        made.append(folder)
        return folder

    yield make
    left = [path.name for folder in [*made, shm_dir] for path in folder.iterdir()]
    assert [name for name in left if re.match(r"store|fsexchange-", name)] == []


@pytest.fixture
def job(new_job: Callable[[], Path]) -> Path:
    return new_job()


def submit(slurm: Slurm, folder: Path, *words: str, memory: Path | None = None) -> str:
    """Return the number of a job that sbatch takes."""
    more = {} if memory is None else {"FSEXCHANGE_DIR": str(memory)}
    env = installed(folder, **more)
    return slurm.run("sbatch", "--parsable", *words, cwd=folder, env=env).strip()


def submit_and_wait(slurm: Slurm, folder: Path, *words: str) -> str:
    """Return the number of such a job once its tasks have begun."""
    number = submit(slurm, folder, *words)
    wait_until(lambda: all((folder / f"started{times}").exists() for times in (1, 4)))
    return number


def output(folder: Path, name: str) -> str:
    return (folder / name).read_text()


@pytest.mark.parametrize("hosts", [1, 2])
def test_steps_share_a_store(slurm: Slurm, job: Path, shm_dir: Path, hosts: int) -> None:
    number = submit(slurm, job, f"--nodes={hosts}", "slurm_steps.sh")
    slurm.wait_for(number)
    out = output(job, f"steps-{number}.out")
    assert slurm.state(number) == "COMPLETED", out
    for name in ("height", "smooth/1", "smooth/4"):
        assert re.search(rf"^{name}: steps add up to \d+\.\d, as 4 ranks found$", out, re.M), out
    store = job / f"store-{number}" if hosts == 2 else shm_dir / f"fsexchange-job-{number}"
    assert f"cleared {store}: 3 files of objects" in out
    assert np.load(job / "smooth4.npy").shape == (500, 500)


def test_store_goes_however_the_job_ends(slurm: Slurm, new_job: Callable[[], Path]) -> None:
    """With an error, by scancel, by a signal to the script alone, and when the time is up."""
    jobs = [new_job() for _ in range(4)]
    for folder, program in zip(jobs, (WAIT, WAIT, WAIT, FAIL), strict=True):
        (folder / "smooth.py").write_text(program)
    late, cancelled, told = (submit_and_wait(slurm, each, "slurm_steps.sh") for each in jobs[:3])
    # The controller looks at limits twice a minute, so the others end meanwhile.
    slurm.run("scontrol", "update", f"JobId={late}", "TimeLimit=0")
    failed = submit(slurm, jobs[3], "slurm_steps.sh")
    slurm.run("scancel", cancelled)
    slurm.run("scancel", "--batch", "--signal=TERM", told)
    numbers = [late, cancelled, told, failed]
    slurm.wait_for(*numbers)
    assert [slurm.state(each) for each in numbers] == ["TIMEOUT", "CANCELLED", "FAILED", "FAILED"]
    for number, folder in zip(numbers, jobs, strict=True):
        assert "cleared" in output(folder, f"steps-{number}.out")


@pytest.mark.parametrize("failing", [False, True])
def test_array_tasks_share_a_store(slurm: Slurm, job: Path, failing: bool) -> None:
    if failing:
        task = (job / "smooth.py").read_text()
        (job / "smooth.py").write_text(task.replace("with", "assert times != 2\nwith", 1))
    out = slurm.run("bash", "slurm_array.sh", cwd=job, env=installed(job))
    collect = out.split()[-1]
    slurm.wait_for(collect)
    shown = output(job, f"array-{collect}.out")
    assert slurm.state(collect) == ("FAILED" if failing else "COMPLETED"), shown
    assert ("nothing is named 'smooth/2'" in shown) == failing
    there = [(job / f"smooth{times}.npy").exists() for times in range(1, 5)]
    assert there == [True, not failing, True, True]
    assert f"{4 if failing else 5} files of objects" in shown


def test_ranks_in_an_allocation_share_a_store(slurm: Slurm, job: Path) -> None:
    """By mpirun, which starts its ranks by Slurm, and by srun."""
    env = installed(job, FSEXCHANGE_STORE=str(job / "store"))
    (job / "both.sh").write_text(
        "set -e\n"
        "fsexchange init store; python height.py a.npy; fsexchange put a.npy --name height\n"
        "mpirun -n 4 python -m mpi4py roughness.py\n"
        "srun --mpi=pmi2 -n 3 python -m mpi4py roughness.py\n"
        "fsexchange clear\n"
    )
    out = slurm.run("salloc", "-N2", "-n4", "bash", "both.sh", cwd=job, env=env)
    assert re.search(r"^height: .* as 4 ranks found$", out, re.M), out
    assert re.search(r"^height: .* as 3 ranks found$", out, re.M), out


def test_doctor_looks_from_all_tasks(slurm: Slurm, job: Path) -> None:
    """Or says that they are no MPI job, as without --mpi."""
    words = ["-N2", "-n2", "fsexchange", "doctor", str(job)]
    out = slurm.run("srun", "--mpi=pmi2", *words, cwd=job, env=installed(job))
    assert "all 2 ranks see one directory" in out
    out = slurm.run("srun", *words, cwd=job, env=installed(job), check=False)
    assert "MPI sees each as a job of its own" in out


def start_ranks(slurm: Slurm, folder: Path, memory: Path) -> str:
    """Return the number of a job whose two ranks have put an array each."""
    (folder / "ranks.py").write_text(RANKS)
    wrapped = "--wrap=srun --mpi=pmi2 python -m mpi4py ranks.py"
    number = submit(slurm, folder, "-N2", "-n2", wrapped, memory=memory)
    wait_until(lambda: all((folder / f"started{rank}").exists() for rank in range(2)))
    return number


def test_what_a_cancelled_job_leaves_is_found_and_removed(
    slurm: Slurm, job: Path, shm_dir: Path
) -> None:
    number = start_ranks(slurm, job, shm_dir)
    slurm.run("scancel", number)
    slurm.wait_for(number)
    (found,) = json.loads(fsexchange("gc", shm_dir, "--json").stdout)["stores"]
    assert (found["state"], found["owner"]["job"]) == ("dead", number)
    assert found["bytes"] >= 64 << 20
    # The next job, on any host that shares the memory.
    after = submit(slurm, job, "-o", "gc.out", f"--wrap=fsexchange gc --yes {shm_dir}")
    slurm.wait_for(after)
    assert re.search(r"removed 1 dead store, 6\d\.\d MiB", output(job, "gc.out"))
    assert os.listdir(shm_dir) == []


def test_epilog_removes_what_killed_jobs_leave_in_memory(
    slurm: Slurm, job: Path, new_job: Callable[[], Path], shm_dir: Path
) -> None:
    """And nothing of jobs that go on."""
    if os.geteuid():
        pytest.skip("slurmd's Epilog becomes the job's user: run the tests as root")
    epilog = (job / "slurm_epilog.sh").read_text()
    program = installed(job)["PATH"].split(os.pathsep)[0] + "/fsexchange"
    path = "export PYTHONPATH=" + installed(job)["PYTHONPATH"]
    new = epilog.replace("/opt/fsexchange/bin/fsexchange", program)
    assert new != epilog
    slurm.set_epilog(new.replace("PATH=", f"{path}\nPATH=", 1))
    (job / "smooth.py").write_text(WAIT)
    steps = submit_and_wait(slurm, job, "--nodes=1", "slurm_steps.sh")
    living, killed = (start_ranks(slurm, new_job(), shm_dir) for _ in range(2))
    assert len(os.listdir(shm_dir)) == 3
    for number in (steps, killed):
        slurm.run("scancel", "--full", "--signal=KILL", number)
    wait_until(lambda: not slurm.run("squeue", "-h", "-j", f"{steps},{killed}"))
    (left,) = json.loads(fsexchange("gc", shm_dir, "--json").stdout)["stores"]
    assert (left["state"], left["owner"]["job"]) == ("living", living)
    slurm.run("scancel", living)
    slurm.wait_for(living)
    assert os.listdir(shm_dir) == []
