"""The command as a whole: its subcommands, its errors, and its exit codes."""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import fsexchange
from fsexchange.cli.output import printable
from fsexchange.errors import (
    FsExchangeError,
    InvalidKeyError,
    MissingObjectError,
    StoreClosedError,
    UntrustedDirectoryError,
    WaitTimeoutError,
)

#: Exit codes. 0 is success; a signal's is 128 and its number, as a shell has it.
FAILED, USAGE, MISSING, TIMED_OUT, REFUSED, FULL = range(1, 7)

#: Subcommand -> the first line of its help. `--help` imports none of them.
COMMANDS = {
    "init": "Make a store that stays until it is cleared.",
    "put": "Put a file, or what comes through a pipe (-), and print the key.",
    "get": "Write an object to a file or to stdout.",
    "wait": "Wait until there are objects of these names, or keys.",
    "evict": "Remove objects, and their names where these are given.",
    "names": "List the names in a store.",
    "ls": "List the objects in a store.",
    "info": "Show type, dtype, shape, length and checksum of an object.",
    "du": "Show how much space a store takes, and how much is free.",
    "clear": "Remove a store with all its objects.",
    "gc": "Find the stores that killed jobs have left, and remove them.",
    "doctor": "Find out whether a directory is fit for stores.",
    "bench": "Measure put and get of arrays beside numpy's save and load.",
}


class Program(click.Group):
    """Imports the module of a subcommand when that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"fsexchange.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except BrokenPipeError:  # here, as click would make it a failure
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"no such command {args[0]!r}: there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fsexchange.__version__, prog_name="fsexchange")
@click.option(
    "--store",
    metavar="DIR",
    envvar="FSEXCHANGE_STORE",
    type=click.Path(),
    help="The store's directory; each subcommand takes it, too.  [default: $FSEXCHANGE_STORE]",
)
def program(store: str | None) -> None:
    """Hand arrays and other objects from one step of a job to the next, through files.

    \b
    eval "$(fsexchange init)"         # makes a store, for this shell and what it starts
    fsexchange put mesh.npy --name mesh
    fsexchange get mesh -o - | ...
    fsexchange clear
    """


def prepare() -> None:
    """Have warnings shown as one line, and what is half done undone at a signal.

    Who writes to a stdout that is closed gets an error, as `cat` does.
    """
    for fd, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # else the next file gets the number of this stream
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    warnings.showwarning = _show_warning
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit)


def run(args: Sequence[str]) -> int:
    """Run the command and return its exit code; an error is one line on stderr."""
    try:
        # What a subcommand returns: its exit code, or None.
        code: int | None = program.main(list(args), "fsexchange", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except SystemExit as error:  # by a signal, by an object's own code; click's completion ends so
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        return _fail(_one_line(error), FAILED)
    except click.ClickException as error:
        return _fail(_usage(error), error.exit_code)
    except click.Abort:  # by Ctrl-C before a subcommand began
        return 128 + signal.SIGINT
    except BaseException as error:  # an object's own, or that a future was set to
        return _fail(_one_line(error), exit_code(error))
    return code or 0


def end(code: int) -> NoReturn:
    """Exit with a code; by a signal if that is what it says, so that a shell ends its loop, too."""
    if code > 128:
        atexit._run_exitfuncs()
        signal.signal(code - 128, signal.SIG_DFL)
        os.kill(os.getpid(), code - 128)
    if code:  # the interpreter would write once more what could not be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, MissingObjectError):
        return MISSING
    if isinstance(error, WaitTimeoutError):
        return TIMED_OUT
    if isinstance(error, (UntrustedDirectoryError, StoreClosedError)):
        return REFUSED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FULL
    return USAGE if isinstance(error, InvalidKeyError) else FAILED


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"fsexchange: {message}", err=True)
    return code


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, FsExchangeError) and error.strerror:
        where = "stdin or stdout" if error.filename is None else error.filename or "''"
        return printable(f"{where}: {error.strerror}")
    text = printable(" ".join(str(error).split()))
    return text if isinstance(error, FsExchangeError) else f"{type(error).__name__}: {text}"


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if not isinstance(error, click.UsageError):
        return message
    asked = "fsexchange" if error.ctx is None else error.ctx.command_path
    return f"{message.rstrip('.')}; see {asked} --help"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"fsexchange: warning: {printable(' '.join(str(message).split()))}", err=True)


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)
