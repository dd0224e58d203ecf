"""The examples and what the README shows run, and do what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .cli import installed
from .jobs import mpirun, needs_mpi
from .processes import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


@needs_mpi
def test_hillshade_is_the_same_picture_on_any_number_of_ranks(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    pictures = []
    for n in (1, 4):
        path = tmp_path / f"{n}.png"
        program = ["-m", "mpi4py", "examples/hillshade.py", str(path)]
        status, out = mpirun("-n", str(n), sys.executable, *program)
        assert status == 0, out
        assert len(re.findall(r"^│ +\d+ │", out, re.M)) == n, out
        assert f"wrote {path}: 806 x 688 pixels" in out.replace("\n", "")
        pictures.append(image.imread(path)[..., :3])
    assert np.array_equal(*pictures)
    # A relief: slopes to the north-west in the light, to the south-east in the shadow.
    grey = pictures[0].mean(axis=2)[::2, ::2]
    load_elevation = runpy.run_path(str(ROOT / "examples" / "elevation.py"))["load_elevation"]
    south, east = np.gradient(load_elevation()[0])
    assert np.corrcoef((south + east).ravel(), grey.ravel())[0, 1] > 0.5


@needs_mpi
def test_heat_is_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    pictures = []
    for n in (1, 3):
        path = tmp_path / f"{n}.png"
        status, out = mpirun(
            "-n", str(n), sys.executable, "-m", "mpi4py", "examples/heat.py", str(path)
        )
        assert status == 0, out
        assert "100 steps: slopes fell from 12.59 to" in out
        pictures.append(image.imread(path))
    assert pictures[0].shape[:2] == (344, 806)
    assert np.array_equal(*pictures)
    # As a serial solution has it, wherever the halo was.
    example = runpy.run_path(str(ROOT / "examples" / "elevation.py"))
    land = example["load_elevation"]()[0]
    serial = land.copy()
    for _ in range(100):
        around = serial[:-2, 1:-1] + serial[2:, 1:-1] + serial[1:-1, :-2] + serial[1:-1, 2:]
        serial[1:-1, 1:-1] += 0.2 * (around - 4 * serial[1:-1, 1:-1])
    slopes = [np.abs(np.diff(height)).mean() for height in (land, serial)]
    assert "slopes fell from {:.2f} to {:.2f} m".format(*slopes) in out


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 4])
def test_sweep(n: int) -> None:
    status, out = mpirun("-n", str(n), sys.executable, "-m", "mpi4py", "examples/sweep.py")
    assert status == 0, out
    assert f"288 suns, {n} ranks" in out
    assert "azimuth 100, altitude 20: contrast 0.1748" in out.splitlines()
    assert "mean of all: 0.1186" in out


@needs_mpi
@pytest.mark.parametrize("n", [1, 4])
def test_a_host_holds_one_copy_of_a_model(n: int) -> None:
    """And one of the assembled results, against one for each rank by mpi4py."""
    program = [sys.executable, "-m", "mpi4py", "examples/shared_model.py", "128"]
    status, out = mpirun("-n", str(n), *program)
    assert status == 0, out
    found = re.findall(rf"by (\w+): {n} ranks hold ([\d.]+) times the table", out)
    copies = {way: float(times) for way, times in found}
    assert 1 < copies["Exchange"] < 1.8, out
    assert copies["mpi4py"] > 0.9 * n, out


@needs_mpi
def test_blocks_written_by_four_ranks_and_read_by_three(tmp_path: Path) -> None:
    store = tmp_path / "store"
    program = [sys.executable, "-m", "mpi4py"]
    status, out = mpirun("-n", "4", *program, "examples/write_blocks.py", store)
    assert status == 0, out
    written = re.search(r"4 ranks wrote 48000128 bytes to (\S+)", out)
    assert written, out
    assert np.load(written[1]).shape == (6000, 1000)
    status, out = mpirun("-n", "3", *program, "examples/read_blocks.py", store)
    assert status == 0, out
    assert out.splitlines() == [
        "rank 0: columns 0 to 332, mean 2999666.0",
        "rank 1: columns 333 to 665, mean 2999999.0",
        "rank 2: columns 666 to 999, mean 3000332.5",
    ]
    assert not store.exists()


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 4])
def test_readme_mpirun_example(n: int, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BLOCKS[1])
    status, out = mpirun("-n", str(n), sys.executable, "-m", "mpi4py", tmp_path / "script.py")
    assert status == 0, out
    assert 3980 < float(out) < 4020  # the mean of the sums of 8000 random numbers


def test_readme_pool_example(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BLOCKS[2])
    out = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("1000000.0") == 8


def test_readme_store_example(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BLOCKS[0])
    assert run(tmp_path / "script.py").splitlines() == [
        "10000000.0",
        "{'any': 'object'}",
        "10000",
        "[1, 2, 3] ['mesh/coarse']",
    ]


def test_readme_examples_are_short() -> None:
    lengths = [len(re.findall(r"^.*\S", block, re.M)) for block in BLOCKS]
    assert len(lengths) == 3
    assert all(n <= limit for n, limit in zip(lengths, (12, 15, 10), strict=True)), lengths


def run(*command: str | Path, warnings: str = "error") -> str:
    programs = os.path.dirname(sys.executable)  # Parsl starts some that were installed with it
    done = subprocess.run(
        [sys.executable, "-W", warnings, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=ROOT,
        env={**os.environ, "PATH": programs + os.pathsep + os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_workers_of_a_pool_share_one_copy() -> None:
    """Near one copy of the array in all, against one for each of the four by pickling."""
    out = run("examples/pool_shared_array.py", "64")
    times = {how: float(n) for how, n in re.findall(r"by (\w+): .* hold ([\d.]+) times", out)}
    assert 0.9 < times["Ref"] < 1.3, out
    assert times["pickling"] > 3.9, out


def test_producer_and_consumer() -> None:
    lines = run("examples/producer_consumer.py").splitlines()
    assert lines == [
        "step 0: mean 0.0",
        "step 1: mean 1.0",
        "step 2: mean 2.0",
        "step 3: failed, step 3 does not converge",
        "step 4: mean 4.0",
    ]


def test_two_scripts_find_each_others_data_by_name(tmp_path: Path) -> None:
    assert "mesh/coarse, mesh/fine" in run("examples/write_mesh.py", tmp_path / "store")
    lines = run("examples/read_mesh.py", tmp_path / "store").splitlines()
    assert lines == [
        "mesh/coarse: (100, 100) points, to 0.990990990990991 m",
        "mesh/fine: (1000, 1000) points, to 1.0 m",
    ]
    assert not (tmp_path / "store").exists()


def test_tasks_fill_one_array() -> None:
    assert run("examples/pool_fill_array.py", "500") == "500 x 500: 0.1164 never escape\n"


def test_readme_steps_of_a_job(tmp_path: Path) -> None:
    section = README.split("## Steps of a job: the command\n", 1)[1].split("\n## ", 1)[0]
    script = "".join(line + "\n" for line in section.splitlines() if line.startswith("    "))
    np.save(tmp_path / "mesh.npy", np.arange(6.0))
    program = 'from fsexchange import Store; s = Store(); s.put(2 * s.get("mesh"), name="u")'
    (tmp_path / "solve.py").write_text(program)
    done = subprocess.run(
        ["bash", "-ec", script],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env=installed(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cleared" in done.stdout
    assert np.load(tmp_path / "u.npy", mmap_mode="r").tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_pool_sends_by_files() -> None:
    assert timed(run("examples/pool_offload.py", "8")) == ["without", "with offload"]


def test_joblib_searches_by_the_backend() -> None:
    needs("joblib", "sklearn")
    assert timed(run("examples/joblib_grid_search.py")) == [
        "loky: best C 10",
        "loky: 8 arrays of 32 MiB",
        "fsexchange: best C 10",
        "fsexchange: 8 arrays of 32 MiB",
    ]


@pytest.mark.parametrize(
    ("engine", "example"), [("distributed", "dask_executor"), ("parsl", "parsl_executor")]
)
def test_engine_gives_arrays_to_its_tasks(engine: str, example: str) -> None:
    needs(engine)
    # Dask warns of large arguments that go without fsexchange.
    out = run(f"examples/{example}.py", "8", warnings="ignore")
    assert timed(out) == ["without", "with StoreExecutor"]


@needs_mpi
def test_julia_set_of_mpi_ranks() -> None:
    program = [sys.executable, "-m", "mpi4py.futures", "examples/mpi_julia.py"]
    status, out = mpirun("-n", "3", *program)
    assert status == 0, out
    assert timed(out) == ["without", "with StoreExecutor"]


def timed(out: str) -> list[str]:
    """Return what lines that end with seconds say of them."""
    return [re.sub(r"[:,] \d+\.\d{3} s$", "", line) for line in out.splitlines()]


def needs(*modules: str) -> None:
    """Skip a test without its engine; `scripts/test --all` has all of them."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"could not import {module!r}")


def test_examples_are_short_and_start_with_what_they_are_for() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 60, path
        assert re.match(r'"""[A-Z].*', lines[0]), path
