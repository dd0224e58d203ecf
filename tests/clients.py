"""A double of a client of a network file system, which remembers what was missing: nfs(5)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fsexchange.filesystem import kinds


def remember_missing_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a name that was looked for too early stay missing until its directory is listed."""
    hidden: set[str] = set()

    def looking(call: Any) -> Any:
        def look(path: Any, *args: Any, **options: Any) -> Any:
            name = os.fspath(path) if not isinstance(path, int) else ""
            if name in hidden:
                raise FileNotFoundError(2, "hidden", name)
            try:
                return call(path, *args, **options)
            except FileNotFoundError:
                hidden.add(name)
                raise

        return look

    listdir = os.listdir

    def listing(path: Any = ".") -> Any:
        names = listdir(path)
        hidden.difference_update(f"{os.fspath(path)}/{name}" for name in names)
        return names

    for name in "stat", "lstat":
        monkeypatch.setattr(os, name, looking(getattr(os, name)))
    monkeypatch.setattr(os, "listdir", listing)
    monkeypatch.setattr(kinds, "_mounted_kind", lambda path: "nfs4")
