"""`fsexchange names`: the names in a store."""

from __future__ import annotations

import click

from fsexchange.cli.options import json_option, look_into, store_argument
from fsexchange.cli.output import note, print_json, print_table, printable


@click.command("names")
@store_argument
@json_option
def command(directory: str | None, store: str | None, as_json: bool) -> None:
    """List the names in a store."""
    path = look_into(directory or store)["store_dir"]
    from fsexchange.cli.listing import names_in

    found = sorted(names_in(path).items())
    if as_json:
        names = [{"name": name, "key": key and str(key)} for name, key in found]
        print_json({"store": path, "names": names})
    elif found:
        print_table(
            ("NAME", "KEY"), [(printable(name), str(key or "damaged")) for name, key in found]
        )
    else:
        note(f"no names in the store at {path}")
