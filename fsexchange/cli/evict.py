"""`fsexchange evict`: remove objects."""

from __future__ import annotations

import click

from fsexchange.cli.options import find, objects_argument, open_store, store_option
from fsexchange.errors import CorruptObjectError, MissingObjectError


@click.command("evict")
@objects_argument("KEY|NAME...")
@store_option
def command(what: tuple[str, ...], store: str | None) -> None:
    """Remove objects, and their names where these are given.

    Those that are not there are an error (exit code 3), after the others are removed.
    """
    with open_store(store) as opened:
        missing = []
        for text in what:
            found = find(opened, text)
            try:
                there = opened.exists(found)
            except CorruptObjectError:  # a damaged name, which goes
                there = True
            opened.evict(found)
            if not there:
                missing.append(text)
    if missing:
        raise MissingObjectError(
            f"not in the store at {opened.store_dir}: {', '.join(missing)}", path=opened.store_dir
        )
