"""Options that several subcommands have, and the store that they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fsexchange.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def store_option(function: F) -> F:
    """Add `--store`, whose value `open_store` takes."""
    return click.option(
        "--store",
        metavar="DIR",
        envvar="FSEXCHANGE_STORE",
        help="The store's directory.  [default: $FSEXCHANGE_STORE]",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`, passed on as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for scripts: see docs/cli.md."
    )(function)


def open_store(path: str | None) -> Store:
    """Attach to the store at `path`; none is made."""
    if not path:
        raise click.UsageError(
            "which store? Pass --store DIR, or set FSEXCHANGE_STORE: "
            'eval "$(fsexchange init)" makes a new one',
            click.get_current_context(),
        )
    from fsexchange.connector import FileConnector
    from fsexchange.connector.default import existing_store
    from fsexchange.store import Store

    return Store(FileConnector(**existing_store(path)))
