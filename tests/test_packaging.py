"""What is installed is typed and whole."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fsexchange

from .cli import environment
from .processes import ROOT, lacking

# What a clone has, but no source distribution.
FOR_THE_REPOSITORY = {".gitignore", ".ci/run"}

# Text, as mypy must see it in another project, and it has errors on purpose.
USER = """
import fsexchange.mpi
from fsexchange import FileConnector, FileKey

with FileConnector("/store") as connector:
    key = connector.put([b"a", bytearray(b"b"), memoryview(b"c")])
    reveal_type(connector)
    reveal_type(key)
    reveal_type(connector.get(key))
    if connector.get(key) == b"abc":
        connector.evict("not a key")
fsexchange.mpi.connect().misspelt()
fsexchange.mpi.misspelt()
"""


@pytest.mark.slow
def test_types_reach_another_project(tmp_path: Path) -> None:
    """Through the editable install, as a user who develops both has it."""
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "user.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    notes = done.stdout.replace("builtins.", "")  # as mypy 1 has it
    revealed = [line.split('"')[1] for line in notes.splitlines() if "Revealed" in line]
    assert revealed == [
        "fsexchange.connector.connector.FileConnector",
        "tuple[str, int, int, fallback=fsexchange.connector.keys.FileKey]",
        "bytes | bytearray | memoryview[int] | None",
    ], done.stdout
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 3, done.stdout
    assert "user.py:11" in errors[0]
    assert 'expected "FileKey"' in errors[0]
    assert "user.py:12" in errors[1]
    assert "user.py:13" in errors[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a wheel and a source distribution, which are built from a copy."""
    source = tmp_path_factory.mktemp("built") / "source"
    ours = [name.strip("/") for name in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", *ours))
    run("build", "--no-isolation", source, cwd=source)
    return source


def run(module: str, *args: str | Path, cwd: Path, python: str | Path = sys.executable) -> str:
    """Run a module of a Python; what it imports is in `cwd`, or installed."""
    done = subprocess.run(
        [str(python), "-m", module, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(PYTHONPATH=str(cwd)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def unpacked(built: Path, tmp_path: Path) -> Path:
    (sdist,) = (built / "dist").glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    return tmp_path / f"fsexchange-{fsexchange.__version__}"


# Those that have something in C.
LAYERS = ("connector", "filesystem", "mpi", "serialize")


@pytest.mark.slow
def test_distributions_can_be_uploaded(built: Path) -> None:
    files = list((built / "dist").iterdir())
    assert len(files) == 2
    run("twine", "check", "--strict", *files, cwd=built)
    (wheel,) = (built / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"fsexchange/py.typed", "fsexchange/cli/program.py"} <= names
    if shutil.which("cc"):
        assert "-cp310-abi3-" in wheel.name
        for layer in LAYERS:
            assert f"fsexchange/{layer}/_native.abi3.so" in names
            assert f"fsexchange/{layer}/_native.pyi" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fsexchange"}


@pytest.mark.slow
def test_source_distribution_has_all_files(built: Path, unpacked: Path) -> None:
    there, packed = (
        {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
        for base in (built, unpacked)
    )
    missing = {name for name in there - packed if not name.startswith(("dist/", "build/"))}
    assert missing <= FOR_THE_REPOSITORY, missing


@pytest.mark.slow
def test_tests_of_the_source_distribution_run(unpacked: Path) -> None:
    """All are found, and some of each kind pass: with programs, examples, documents."""
    run("pytest", "--collect-only", "-q", cwd=unpacked)
    some = ["tests/test_keys.py", "tests/test_cli_looking.py", "tests/test_examples.py"]
    chosen = "keys or hostile or readme_store or short_and_start"
    assert " passed" in run("pytest", "-q", *some, "-k", chosen, cwd=unpacked)


@pytest.mark.slow
def test_wheel_installs_with_all_that_users_want(built: Path, tmp_path: Path) -> None:
    (wheel,) = (built / "dist").glob("*.whl")
    run("venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "-q", f"{wheel}[all]"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    if "Failed to establish a new connection" in done.stderr:
        lacking("a package index that answers")
    assert done.returncode == 0, done.stderr
    assert "mpi4py" in run("pip", "list", python=python, cwd=tmp_path)
    (tmp_path / "a.npy").write_bytes(b"no array")
    script = """
    eval "$(fsexchange init store)"
    fsexchange put a.npy --format bytes --name a
    fsexchange get a -o -
    fsexchange clear
    """
    env = environment(PYTHONPATH="", PATH=f"{python.parent}:/usr/bin:/bin")
    words = ["bash", "-ec", script]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "no array" in done.stdout


def test_what_is_in_c_is_built() -> None:
    for layer in LAYERS:
        name = f"fsexchange.{layer}._native"
        if sys.modules.get(name, "") is None:
            pytest.skip("these tests do without it")
        if shutil.which("cc") is None:
            lacking("a C compiler")
        importlib.import_module(name)


def test_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    fields = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.M))
    assert fields["cff-version"] == "1.2.0"
    assert (fields["title"], fields["version"]) == ("fsexchange", fsexchange.__version__)
