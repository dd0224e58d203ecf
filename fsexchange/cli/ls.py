"""`fsexchange ls`: the objects of a store."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from fsexchange.cli import output
from fsexchange.cli.options import json_option, look_into, store_argument
from fsexchange.cli.progress import progress

if TYPE_CHECKING:
    from fsexchange.cli.listing import Listed

_SORTS = ("key", "name", "size", "age", "type")


@click.command("ls")
@click.option(
    "--name", "pattern", metavar="PATTERN", help="Only objects with such a name: 'run1/*'."
)
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="name",
    show_default=True,
    help="By name those without one come last; by size the largest first, by age the youngest.",
)
@click.option("-r", "--reverse", is_flag=True, help="The other way round.")
@store_argument
@json_option
def command(
    directory: str | None,
    pattern: str | None,
    sort: str,
    reverse: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """List the objects in a store.

    Looks at names, sizes and the first bytes of objects, and runs no code of theirs.
    """
    found = look_into(directory or store)
    from fsexchange.cli.listing import listed

    path = found["store_dir"]
    with progress("look at objects"):
        objects = list(listed(path, markers=found["markers"]))
    if pattern is not None:
        objects = [each for each in objects if any(fnmatchcase(n, pattern) for n in each.names)]
    objects.sort(key=lambda each: _order(each, sort), reverse=reverse)
    if as_json:
        output.print_json({"store": path, "objects": [each.document() for each in objects]})
    elif objects:
        output.print_table(
            ("KEY", "SIZE>", "AGE>", "TYPE", "WRITER", "NAMES"),
            [[*map(output.printable, _row(each))] for each in objects],
        )
    else:
        output.note(f"no objects in the store at {path}" + (" have such a name" if pattern else ""))


def _order(each: Listed, sort: str) -> tuple[object, ...]:
    key = (each.key.filename.split("/")[0], each.key.filename, each.key.offset)
    first = {
        "key": "",
        "name": (not each.names, each.names),
        "size": -each.nbytes,
        "age": -each.modified,
        "type": each.type,
    }[sort]
    return first, key


def _row(each: Listed) -> tuple[str, ...]:
    writer = "-" if each.writer is None else f"{each.writer.host}:{each.writer.pid}"
    return (
        str(each.key) if each.told else each.key.filename,
        output.size(each.nbytes),
        output.age(each.modified),
        each.type,
        writer,
        ", ".join(each.names),
    )
