"""What subcommands show: JSON for scripts, tables for people."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; a column whose title ends in `>` is aligned to the right.

    Where stdout is no terminal a row is a line, however long.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for title in columns:
        right = title.endswith(">")
        table.add_column(title.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        click.echo(line.rstrip())


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
