"""Whatever a user passes as a path is one, or an error that says why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fsexchange import FileConnector, Store
from fsexchange.connector.place import place

from .processes import python


@pytest.mark.parametrize("kind", [os.fsencode, os.fspath, Path], ids=["bytes", "str", "Path"])
def test_every_kind_of_path_is_one(kind: Any, shm_dir: Path) -> None:
    path = shm_dir / "a \udcff name"  # not UTF-8
    with FileConnector(kind(path)) as connector:
        assert connector.store_dir == os.fspath(path)
        assert FileConnector.from_config(connector.config()).get(connector.put(b"x")) == b"x"
    assert os.listdir(shm_dir) == []


@pytest.mark.parametrize("make", [FileConnector, Store])
@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("", ValueError, "empty"),
        (b"", ValueError, "empty"),
        ("nul\0byte", ValueError, "NUL"),
        (7, TypeError, "int"),
        (["x"], TypeError, "list"),
    ],
)
def test_what_is_no_path_is_refused(make: Any, path: Any, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        make(path)


def test_path_that_this_process_cannot_write_is_refused() -> None:
    """In the POSIX locale, unless Python makes an exception for it: PEP 538, PEP 540."""
    env = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    out = python("open_a_path_with_an_accent", env=env).stdout
    assert out.startswith("ValueError store_dir is '/dev/shm/r\\xe9sultats'")
    assert "PYTHONUTF8=1" in out


def test_relative_path_needs_a_working_directory(shm_dir: Path) -> None:
    out = python("open_where_no_directory_is", shm_dir / "gone").stdout
    assert out.count("StoreError store_dir is 'store', but this process's working directory") == 3


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("store") == place(b"./x/../store") == str(tmp_path / "store")
