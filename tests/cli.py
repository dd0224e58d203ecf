"""The `fsexchange` command for tests: as a process, or in this one where none is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from click.testing import CliRunner, Result

from fsexchange.cli.program import program

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


def call(
    *args: str | os.PathLike[str], store: str | os.PathLike[str] | None = None, code: int = 0
) -> Result:
    """Run the command in this process, which is faster; its errors are exceptions of the result."""
    env = {"FSEXCHANGE_STORE": str(store) if store else None}
    return CliRunner().invoke(program, [*map(str, args)], env=env, catch_exceptions=False)
