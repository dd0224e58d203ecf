"""`fsexchange info`: one object."""

from __future__ import annotations

import click

from fsexchange.cli import output
from fsexchange.cli.options import is_key, json_option, look_into, object_argument, store_option
from fsexchange.errors import MissingObjectError


@click.command("info")
@object_argument
@store_option
@json_option
def command(what: str, store: str | None, as_json: bool) -> None:
    """Show type, dtype, shape, length and checksum of an object.

    Looks at its first bytes, and runs no code of its.
    """
    found = look_into(store)
    from fsexchange.cli.listing import find

    path = found["store_dir"]
    each = find(path, what, is_key=is_key(what), markers=found["markers"])
    if each is None:
        raise MissingObjectError(f"no {what} is in the store at {path}", path=path)
    document = each.document()
    if as_json:
        output.print_json({"store": path, **document})
        return
    told = each.described
    guarded = {
        "all": "guards all of it",
        "head": "guards all but the elements, bytes or text",
        "nothing": "-",
    }[told.guarded]
    rows = [
        ("key", str(each.key)),
        ("names", ", ".join(each.names) or "-"),
        ("type", each.type),
        ("dtype", told.dtype),
        ("shape", "" if told.shape is None else str(told.shape)),
        ("order", told.order),
        ("bytes", f"{each.nbytes} ({output.size(each.nbytes)})"),
        ("crc32", "-" if told.crc is None else f"{told.crc:08x}, {guarded}"),
        ("modified", f"{document['modified']} ({output.age(each.modified)} ago)"),
        ("writer", "-" if each.writer is None else str(each.writer)),
        ("file", f"{path}/{each.key.filename}" + (", shared" if each.packed else "")),
    ]
    output.print_table(("", ""), [(title, output.printable(text)) for title, text in rows if text])
