"""`fsexchange put`: a file becomes an object."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from fsexchange.cli import formats
from fsexchange.cli.options import is_key, open_store, store_option
from fsexchange.cli.progress import progress

if TYPE_CHECKING:
    from fsexchange.connector import FileKey
    from fsexchange.store import Store


@click.command("put")
@click.argument("file", metavar="FILE|-", type=click.Path())
@click.option("--name", metavar="NAME", help="Name it; the object that had the name is evicted.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(formats.KINDS),
    help="What the file is, if its first bytes shall not decide.",
)
@click.option("--pickle", is_flag=True, help="The file is a pickle: put the object that it holds.")
@store_option
def command(file: str, name: str | None, kind: str | None, pickle: bool, store: str | None) -> None:
    """Put a file, or what comes through a pipe (-), and print the key.

    The array of a .npy file, the dict of arrays of an .npz file, the pyarrow table of a .parquet
    file; any other file as bytes. To load a pickle runs its code.
    """
    if pickle and kind not in (None, "pickle"):
        raise click.UsageError(
            f"--pickle and --format {kind} exclude each other", click.get_current_context()
        )
    if name is not None and is_key(name):
        raise click.UsageError(
            f"{name!r} is the form of a key, which no name is taken for: choose another",
            click.get_current_context(),
        )
    with open_store(store) as opened, formats.Input(file) as source:
        key = _put(opened, source, name, "pickle" if pickle else kind)
        try:
            click.echo(str(key))
        except BaseException:
            if name is None:  # nobody has the key
                opened.evict(key)
            raise


def _put(store: Store, source: formats.Input, name: str | None, kind: str | None) -> FileKey:
    kind = kind or source.kind()
    with progress(f"put {os.path.basename(source.name)}", source.nbytes) as advance:
        if kind not in ("npy", "bytes"):
            obj = formats.load(kind, source)
            return store.put(obj, name=name, replace=name is not None)
        if kind == "npy":
            source.check_npy()
        by_path = source.path if source.nbytes is not None else None  # which errors name
        return store.put_file(
            by_path or source.fd,
            name=name,
            replace=name is not None,
            as_bytes=kind == "bytes",
            start=source.start,
            progress=advance,
        )
