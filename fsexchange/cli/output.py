"""What subcommands show: JSON for scripts, tables for people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fsexchange.filesystem.process import Process

# So many rows are laid out for the width of a terminal, which takes a millisecond for each.
_MOST = 1000


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column whose title ends in `>` is aligned to the right.

    Where stdout is no terminal a row is a line, however long; and where there are many. What a
    terminal would obey, in the name of a stranger's file, say, is shown as an escape.
    """
    rows = [["\n".join(map(shown, cell.split("\n"))) for cell in row] for row in rows]
    titles = [title.rstrip(">") for title in columns]
    right = [title.endswith(">") for title in columns]
    if os.isatty(1) and len(rows) <= _MOST:
        _print_rich(titles, right, rows)
        return
    table = [titles, *rows] if any(titles) else rows
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(
    titles: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(titles))
    table.padding = (0, 2, 0, 0)
    for title, aligned in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def shown(text: str) -> str:
    """Return a text in one line that a terminal shows as it is, and that can be encoded.

    >>> shown("a\\nb\\x1b[31m \\udcff")
    'a\\\\nb\\\\x1b[31m \\\\udcff'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def process_document(process: Process | None) -> dict[str, Any] | None:
    """Return what JSON documents say of a process."""
    if process is None:
        return None
    return {name: getattr(process, name) for name in ("host", "pid", "uid", "job")}


def note(text: str) -> None:
    """Tell a person something that is no result and no error."""
    click.echo(f"fsexchange: {text}", err=True)


def size(nbytes: int) -> str:
    """Return a number of bytes for people.

    >>> size(1023), size(1536), size(5 << 30)
    ('1023 B', '1.5 KiB', '5.0 GiB')
    """
    if nbytes < 1024:
        return f"{nbytes} B"
    number = float(nbytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007
        number /= 1024
        if number < 1000:
            break
    return f"{number:.1f} {unit}"


def age(modified: float) -> str:
    """Return how long ago a time was, for people.

    >>> age(time.time() - 130)
    '2 min'
    """
    seconds = max(0.0, time.time() - modified)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(modified: float) -> str:
    """Return a time in ISO 8601, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(modified))


def count(number: int, noun: str) -> str:
    """Return a number and its noun.

    >>> count(1, "object"), count(2000, "object")
    ('1 object', '2,000 objects')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
