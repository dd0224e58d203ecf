"""`fsexchange get`: an object becomes a file."""

from __future__ import annotations

import contextlib
import os
import pickle as pickling
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fsexchange.cli import formats
from fsexchange.cli.options import find, object_argument, open_store, store_option
from fsexchange.cli.progress import progress
from fsexchange.filesystem.transfer import replacing, write
from fsexchange.serialize.description import ENOUGH, describe

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.connector import FileKey
    from fsexchange.store import Store

# What these endings promise.
_ENDINGS = {".npy": "npy", ".npz": "npz", ".parquet": "parquet"}


@click.command("get")
@object_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE|-",
    type=click.Path(),
    help="Where to write it; the whole file appears at the end.  [default: -, which is stdout]",
)
@click.option("--pickle", is_flag=True, help="Write a pickle, of an object of any type.")
@store_option
def command(what: str, output: str | None, pickle: bool, store: str | None) -> None:
    """Write an object to a file or to stdout.

    An array is written as .npy, which numpy.load(file, mmap_mode="r") maps; a dict of arrays as
    .npz; a table as .parquet; bytes as they are; a str as UTF-8. Others only with --pickle. To load
    those runs their code.
    """
    # /dev/stdout is a link to the file that stdout may be, which would be replaced.
    target = 1 if output in (None, "-", "/dev/stdout") else str(output)
    with open_store(store) as opened:
        key = find(opened, what)
        kind, nbytes = _look_at(opened, key)
        if pickle or kind is not None:
            _check("pickle" if pickle else kind, output)

        def encode(obj: Any) -> Sequence[Buffer]:
            kind, pieces = formats.encode(obj)
            _check(kind, output)
            return pieces

        with progress(f"get {what}", nbytes) as advance:
            if not pickle:
                opened.get_file(key, target, encode=encode, progress=advance)
                return
            data = pickling.dumps(opened.get(key), 5)
            with contextlib.ExitStack() as stack:
                fd = target if isinstance(target, int) else stack.enter_context(replacing(target))
                write(fd, [data], advance)


def _look_at(store: Store, key: FileKey | str) -> tuple[str | None, int]:
    """Return the format of an object that is written as it lies in the store, and its length."""
    found = store.names.get(key) if isinstance(key, str) else key
    source = None if found is None else store.connector.open(found)
    if source is None:
        return None, 0
    try:
        nbytes = os.fstat(source).st_size
        told = describe(os.pread(source, ENOUGH, 0), nbytes)
        if told.shape is not None:
            return "npy", nbytes
        if told.start:
            return formats.kind_of(os.pread(source, formats.LONGEST, told.start)), nbytes
        return None, nbytes
    finally:
        os.close(source)


def _check(kind: str | None, output: str | None) -> None:
    """Refuse to write what its reader does not expect."""
    ending = os.path.splitext(output or "")[1]
    if _ENDINGS.get(ending, kind) != kind:
        raise click.ClickException(
            f"the object is written as {kind}, and {output} ends in {ending}: choose another name"
        )
    if kind != "bytes" and output is None and os.isatty(1):
        raise click.ClickException(
            f"stdout is a terminal, and {kind} is not for people: pass -o FILE, or -o - if you "
            "mean it"
        )
