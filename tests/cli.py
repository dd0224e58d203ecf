"""The `fsexchange` command for tests: as a process, or in this one where none is needed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from fsexchange.cli.program import run

from .processes import ROOT

WORDS = [sys.executable, "-W", "error", "-m", "fsexchange"]


def environment(store: str | os.PathLike[str] | None = None, **more: str) -> dict[str, str]:
    """Return this process's environment, with the store that the command is to use."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FSEXCHANGE")}
    return {
        **env,
        "PYTHONPATH": str(ROOT),
        **more,
        **({"FSEXCHANGE_STORE": str(store)} if store else {}),
    }


def installed(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of job scripts: `fsexchange` and `python` are programs in it.

    Stores for which no directory is named are made in `folder`.
    """
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "fsexchange").write_text(f'#!/bin/sh\nexec {sys.executable} -m fsexchange "$@"\n')
    (programs / "fsexchange").chmod(0o700)
    path = os.pathsep.join((str(programs), os.path.dirname(sys.executable), os.environ["PATH"]))
    return environment(**{"FSEXCHANGE_DIR": str(folder), **more, "PATH": path})


def fsexchange(
    *args: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    stdin: bytes | IO[bytes] = b"",
    code: int | None = 0,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] = ROOT,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; it must exit with `code`, and never show a traceback."""
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    done = subprocess.run(
        [*before, *WORDS, *map(str, args)],
        capture_output=True,
        timeout=60,
        cwd=cwd,
        env=environment(store, **(env or {})),
        **source,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert code in (None, done.returncode), f"exit status {done.returncode}\n{done.stderr.decode()}"
    return done


def read_all(fd: int) -> bytes:
    """Return what is written to a terminal until its last user closes it."""
    shown = io.BytesIO()
    try:
        while data := os.read(fd, 4096):
            shown.write(data)
    except OSError:  # EIO: it is closed
        pass
    os.close(fd)
    return shown.getvalue()


class Done(NamedTuple):
    """What a command has shown."""

    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


class Command:
    """The command in this process, which is faster; fixture `command`."""

    def __init__(self, capfd: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch) -> None:
        self._capfd = capfd
        self._patch = patch

    def use(self, store: str | os.PathLike[str]) -> None:
        """Have FSEXCHANGE_STORE name a store."""
        self._patch.setenv("FSEXCHANGE_STORE", str(store))

    def __call__(self, *args: str | os.PathLike[str], code: int = 0) -> Done:
        """Run the command; it must return `code`, and say nothing on stderr if that is 0."""
        self._capfd.readouterr()
        got = run([*map(str, args)])
        out, err = self._capfd.readouterr()
        assert got == code, f"exit code {got}\n{err.decode()}"
        if code:
            assert err.startswith(b"fsexchange: "), err.decode()
            assert err.count(b"\n") == 1, err.decode()
        return Done(out, err.decode())
