"""The command as a whole: help, errors, exit codes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from fsexchange import Store
from fsexchange.cli.program import COMMANDS

from .cli import fsexchange


def test_help_lists_every_subcommand_and_imports_none() -> None:
    shown = fsexchange("--help").stdout.decode()
    for name, summary in COMMANDS.items():
        assert f"  {name} " in shown
        assert summary in " ".join(shown.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_subcommand_is_in_a_module_of_its_name(name: str) -> None:
    module = importlib.import_module(f"fsexchange.cli.{name}")
    assert module.command.name == name
    assert " ".join(module.command.help.split("\n\n")[0].split()) == COMMANDS[name]


def test_names_lists_the_names_in_a_store(shm_dir: Path) -> None:
    with Store(shm_dir / "store", clear=False) as store:
        key = store.put([1, 2, 3], name="mesh/coarse")
        done = fsexchange("names", "--json", store=shm_dir / "store")
        assert json.loads(done.stdout) == {
            "store": str(shm_dir / "store"),
            "names": [{"name": "mesh/coarse", "key": str(key)}],
        }
        assert b"mesh/coarse" in fsexchange("names", "--store", shm_dir / "store").stdout


def test_a_store_must_be_named(shm_dir: Path) -> None:
    assert b"--store" in fsexchange("names", code=2).stderr
    assert b"there is no store" in fsexchange("names", "--store", shm_dir, code=5).stderr
