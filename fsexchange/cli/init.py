"""`fsexchange init`: make a store that outlives the command."""

from __future__ import annotations

import os
import shlex

import click

from fsexchange.cli.output import note


@click.command("init")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@click.option(
    "--markers",
    is_flag=True,
    help="For mounts without an atomic rename, such as object stores behind FUSE.",
)
def command(directory: str | None, markers: bool) -> None:
    """Make a store that stays until it is cleared.

    Prints the line that names it for a shell: eval "$(fsexchange init)". Without DIR it is a new
    directory in $FSEXCHANGE_DIR, else in /dev/shm, or in the directory for temporary files where
    that has less than 1 GiB free. Hosts that are to share it need a DIR that all of them mount. A
    store that is at DIR is used again.
    """
    from fsexchange.connector import FileConnector
    from fsexchange.connector.default import new_path

    before = os.environ.get("FSEXCHANGE_STORE")
    try:
        path = new_path() if directory is None else directory
        connector = FileConnector(path, clear=False, markers=markers)
    except ValueError as error:  # of what cannot be a path, in FSEXCHANGE_DIR, too
        raise click.UsageError(str(error), click.get_current_context()) from None
    if before and os.path.isdir(before) and not os.path.samefile(before, connector.store_dir):
        note(f"the store that FSEXCHANGE_STORE named stays: {before}")
    try:
        click.echo(f"export FSEXCHANGE_STORE={shlex.quote(connector.store_dir)}")
    except BaseException:
        if directory is None:  # nobody knows where it is
            connector.close(clear=True)
        raise
    if os.isatty(1):
        note('for a shell to take this line, run: eval "$(fsexchange init)"')
    connector.close()
