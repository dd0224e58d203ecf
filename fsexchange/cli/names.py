"""`fsexchange names`: the names in a store."""

from __future__ import annotations

import click

from fsexchange.cli.options import json_option, open_store, store_option
from fsexchange.cli.output import print_json, print_table


@click.command("names")
@store_option
@json_option
def command(store: str | None, as_json: bool) -> None:
    """List the names in a store."""
    with open_store(store) as opened:
        found = sorted((name, str(key)) for name, key in opened.names.items())
        if as_json:
            names = [{"name": name, "key": key} for name, key in found]
            print_json({"store": opened.store_dir, "names": names})
        else:
            print_table(("name", "key"), found)
