"""The examples and what the README shows run, and do what they say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .processes import ROOT
from .test_mpi import mpirun

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


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


@pytest.mark.parametrize("n", [1, 2, 4])
def test_readme_mpirun_example(n: int, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BLOCKS[0])
    status, out = mpirun("-n", str(n), sys.executable, "-m", "mpi4py", tmp_path / "script.py")
    assert status == 0, out
    assert 1980 < float(out) < 2020  # the mean of the sums of 4000 random numbers


def test_readme_pool_example(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BLOCKS[1])
    out = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("1000000.0") == 8


def test_readme_examples_are_short() -> None:
    lengths = [len(re.findall(r"^.*\S", block, re.M)) for block in BLOCKS]
    assert lengths == [14, 10]


def test_examples_are_short_and_start_with_what_they_are_for() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 60, path
        assert re.match(r'"""[A-Z].*', lines[0]), path
