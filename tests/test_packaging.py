"""What is installed is typed and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
