"""Options and arguments of several subcommands, and the stores and objects that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from fsexchange.connector import FileKey
    from fsexchange.store import Store

F = TypeVar("F", bound=Callable[..., Any])

# What a key from `put` or `new_key` looks like. Other text is a name first.
_KEY = re.compile(r"[0-9a-f]{16}/[0-9.]+(:[0-9]+(@[0-9]+)?)?")

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Return how many seconds an option means: the `type` of one.

    >>> duration("90"), duration("1.5h")
    (90.0, 5400.0)
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration, such as 90, 90s, 5m, 2h or 1d")
    return float(found[1]) * _SECONDS[found[2]]


def store_option(function: F) -> F:
    """Add `--store`, for `open_store` and `look_into`."""
    return click.option(
        "--store",
        metavar="DIR",
        type=click.Path(),
        help="The store's directory.  [default: $FSEXCHANGE_STORE]",
    )(function)


def store_argument(function: F) -> F:
    """Add `--store`, and as people forget that, the same as an argument, `directory`."""
    return click.argument("directory", metavar="[DIR]", required=False, type=click.Path())(
        store_option(function)
    )


def json_option(function: F) -> F:
    """Add `--json`, passed on as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for scripts: see docs/cli.md."
    )(function)


def object_argument(function: F) -> F:
    """Add the argument KEY|NAME, passed on as `what`."""
    return click.argument("what", metavar="KEY|NAME", shell_complete=_complete)(function)


def objects_argument(metavar: str) -> Callable[[F], F]:
    """Add one or more keys or names, passed on as `what`."""
    return click.argument(
        "what", metavar=metavar, nargs=-1, required=True, shell_complete=_complete
    )


def open_store(path: str | None) -> Store:
    """Attach to the store at `path`, by default at $FSEXCHANGE_STORE; none is made."""
    found = look_into(path)
    from fsexchange.connector import FileConnector
    from fsexchange.store import Store

    return Store(FileConnector(**found))


def look_into(path: str | None) -> dict[str, Any]:
    """Return `store_dir` and `markers` of the store at `path`, and its `store_id`.

    It need not be trusted: this reads its record, which is JSON.
    """
    ctx = click.get_current_context()
    path = path or ctx.find_root().params["store"]
    if not path:
        raise click.UsageError(
            "which store? Pass --store DIR, or set FSEXCHANGE_STORE: "
            'eval "$(fsexchange init)" makes a new one',
            ctx,
        )
    from fsexchange.connector.default import existing_store

    return existing_store(os.path.expanduser(path))


def is_key(text: str) -> bool:
    """Return whether an argument is a key, and not a name."""
    return _KEY.fullmatch(text) is not None


def find(store: Store, text: str) -> FileKey | str:
    """Return the key or the name that an argument means."""
    from fsexchange.connector import FileKey
    from fsexchange.errors import InvalidKeyError

    if is_key(text):
        return FileKey.parse(text)
    if text not in store.names:
        try:
            key = FileKey.parse(text)  # a plain name, chosen by who has set it
        except InvalidKeyError:
            return text
        if store.exists(key):
            return key
    return text


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from fsexchange.cli.listing import names_in

    try:
        with ctx.scope(cleanup=False):
            names = names_in(look_into(ctx.params.get("store"))["store_dir"])
    except Exception:  # a shell would show it amid the line
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
