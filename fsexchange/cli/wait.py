"""`fsexchange wait`: wait until other steps have put something."""

from __future__ import annotations

import time

import click

from fsexchange.cli.options import (
    duration,
    find,
    is_key,
    objects_argument,
    open_store,
    store_option,
)
from fsexchange.cli.progress import progress


@click.command("wait")
@objects_argument("NAME...")
@click.option(
    "--timeout",
    metavar="TIME",
    type=duration,
    help="Give up (exit code 4) after so many seconds, or 5m, 2h, 1d.  [default: wait on]",
)
@store_option
def command(what: tuple[str, ...], timeout: float | None, store: str | None) -> None:
    """Wait until there are objects of these names, or keys."""
    with open_store(store) as opened:
        deadline = None if timeout is None else time.monotonic() + timeout
        for text in what:
            left = None if deadline is None else max(0.0, round(deadline - time.monotonic(), 3))
            with progress(f"wait for {text}"):
                opened.wait(find(opened, text) if is_key(text) else text, left)
