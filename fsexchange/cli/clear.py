"""`fsexchange clear`: end a store."""

from __future__ import annotations

import click

from fsexchange.cli import output
from fsexchange.cli.options import look_into, store_argument


@click.command("clear")
@store_argument
def command(directory: str | None, store: str | None) -> None:
    """Remove a store with all its objects.

    Whoever has it open finds it closed. Files that fsexchange did not make stay.
    """
    found = look_into(directory or store)
    from fsexchange.connector import FileConnector, inventory

    connector = FileConnector(**found)
    items = list(inventory.items(connector.store_dir, markers=connector.markers))
    gone = [item for item in items if item.kind in ("object", "segment", "partial")]
    nbytes = sum(item.allocated for item in gone)
    connector.close(clear=True)
    files = output.count(len(gone), "file")
    click.echo(f"cleared {connector.store_dir}: {files} of objects, {output.size(nbytes)}")
