"""`fsexchange gc`: what killed jobs have left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from fsexchange.cli import output
from fsexchange.cli.options import duration, json_option
from fsexchange.cli.program import FAILED
from fsexchange.cli.progress import progress

if TYPE_CHECKING:
    from fsexchange.store.leftovers import FoundStore
    from fsexchange.store.partials import Partial


@click.command("gc")
@click.argument("dirs", metavar="[DIR]...", nargs=-1, type=click.Path())
@click.option("--yes", is_flag=True, help="Remove what is dead. Else it is only listed.")
@click.option(
    "--older-than",
    type=duration,
    metavar="TIME",
    default="1d",
    show_default=True,
    help="Silence after which an owner is dead of which a network file system tells no more; "
    "at least 5m.",
)
@json_option
def command(dirs: tuple[str, ...], yes: bool, older_than: float, as_json: bool) -> int:
    """Find the stores that killed jobs have left, and remove them.

    Searches below each DIR; without one where stores are made for which no directory is named:
    $FSEXCHANGE_STORE, $FSEXCHANGE_DIR, /dev/shm, the directory for temporary files. A store is
    dead if it is proven that its owner is. Living and kept stores, other users', and those of
    which nothing is proven are never removed; of living and kept ones, files are which killed
    writers have left partial.
    """
    from fsexchange.connector.life import SILENT_AFTER
    from fsexchange.errors import StoreError
    from fsexchange.store.leftovers import gc

    if older_than < SILENT_AFTER:
        raise click.BadParameter(
            "at least 5m, as a sign of life may come late", param_hint="--older-than"
        )
    stores: dict[str, FoundStore] = {}
    errors: list[StoreError] = []
    with progress("looking for stores"):
        for base in dirs or (None,):
            try:
                for found in gc(base, remove=yes, older_than=older_than):
                    # One that an earlier DIR led to is gone by now, or as it was.
                    stores.setdefault(found.path, found)
            except StoreError as error:
                if base is None or not _was_in(base, stores.values()):
                    errors.append(error)
    found_stores = list(stores.values())
    partial = [one for store in found_stores for one in store.partials]
    dead = [(s.nbytes, s.removed) for s in found_stores if s.state == "dead"]
    dead_files = [(one.nbytes, one.removed) for one in partial if one.dead]
    if as_json:
        output.print_json({"stores": [_document(store) for store in found_stores]})
    else:
        _print(found_stores, partial)
        if found_stores or not errors:
            _summarize(dead, dead_files, removed=yes)
    for each in errors:  # only now: what was removed is told whatever became of the rest
        output.note(str(each))
    if errors or (yes and not all(removed for _, removed in (*dead, *dead_files))):
        return FAILED
    return 0


def _was_in(path: str, stores: Iterable[FoundStore]) -> bool:
    """Return whether a directory was in a store that was removed just now."""
    path = os.path.realpath(path)
    return any(f"{path}/".startswith(f"{store.path}/") for store in stores if store.removed)


def _document(store: FoundStore) -> dict[str, Any]:
    return {
        "store": store.path,
        "state": store.state,
        "why": store.why,
        "owner": output.process(store.owner),
        "files": store.files,
        "bytes": store.nbytes,
        "age": round(store.age, 3),
        "removed": store.removed,
        "partial": [
            {
                "file": one.path,
                "bytes": one.nbytes,
                "age": round(one.age, 3),
                "dead": one.dead,
                "why": one.why,
                "removed": one.removed,
            }
            for one in store.partials
        ],
    }


def _print(stores: Sequence[FoundStore], partial: Sequence[Partial]) -> None:
    now = time.time()
    if stores:
        output.print_table(
            ("STATE", "SIZE>", "FILES>", "AGE>", "STORE"),
            [
                (
                    "removed" if store.removed else store.state,
                    output.size(store.nbytes),
                    str(store.files),
                    output.age(now - store.age),
                    f"{output.printable(store.path)}\n  {store.why}",
                )
                for store in stores
            ],
        )
    if partial:
        click.echo()
        output.print_table(
            ("STATE", "SIZE>", "AGE>", "PARTIAL FILE"),
            [
                (
                    "removed" if one.removed else "dead" if one.dead else "unknown",
                    output.size(one.nbytes),
                    output.age(now - one.age),
                    f"{output.printable(one.path)}\n  {one.why}",
                )
                for one in partial
            ],
        )


def _summarize(
    stores: Sequence[tuple[int, bool]], files: Sequence[tuple[int, bool]], *, removed: bool
) -> None:
    """Say how many stores and files are dead, of bytes, and whether they are removed."""
    sizes = []
    parts = []
    for noun, found in (("dead store", stores), ("dead partial file", files)):
        meant = [nbytes for nbytes, gone in found if gone or not removed]
        if meant:
            parts.append(output.count(len(meant), noun))
            sizes += meant
    what = f"{' and '.join(parts)}, {output.size(sum(sizes))}"
    if not parts:
        output.note("nothing was removed" if removed else "nothing is proven dead")
    else:
        output.note(f"removed {what}" if removed else f"{what}; --yes removes what is dead")
