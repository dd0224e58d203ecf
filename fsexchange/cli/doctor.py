"""`fsexchange doctor`: whether a directory is fit for stores, alone or in a job's ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fsexchange.cli import output
from fsexchange.cli.findings import Finding
from fsexchange.cli.options import json_option

if TYPE_CHECKING:
    from fsexchange.cli.ranks import Comm

_FIT, _FIT_WITH_FINDINGS, _NOT_FIT = range(3)


class _NoPlaceError(click.ClickException):
    """There is no directory to look at. The exit code of other errors would mean that it is fit."""

    exit_code = _NOT_FIT


@click.command("doctor")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@json_option
def command(directory: str | None, as_json: bool) -> int:
    """Find out whether a directory is fit for stores.

    Looks at file system, mount and room, and tries what fsexchange needs in a directory that it
    makes in DIR and removes. Without DIR it is the one where stores are made for which none is
    named. Under mpirun or srun all ranks look, and the first one reports.

    Exit status: 0 fit, 1 fit with findings that matter, 2 not fit.
    """
    from fsexchange.cli.ranks import started_as, world
    from fsexchange.connector.default import default_base
    from fsexchange.connector.place import place
    from fsexchange.errors import FsExchangeError

    rank, size = started_as()
    comm: Comm | None = None
    findings: list[Finding] = []
    if size > 1:
        try:
            comm = world()
        except ImportError as error:
            findings.append(_launched(size, f"mpi4py cannot be imported ({error})"))
        else:
            if comm.size == 1:
                findings.append(_launched(size, "MPI sees each as a job of its own"))
                comm = None
    if rank and comm is None:
        return 0  # the first rank reports
    if comm is None:
        try:
            path = place(directory) if directory else default_base()
        except (FsExchangeError, ValueError) as error:
            raise _NoPlaceError(str(error)) from error
        findings += _alone(path)
    else:
        try:
            path = comm.bcast(place(directory) if directory else default_base(), 0)
            findings += _in_ranks(path, comm, named=bool(directory))
        except BaseException as error:  # the others would wait for this rank
            output.note(f"rank {comm.rank}: {' '.join(str(error).split())}")
            comm.Abort(_NOT_FIT)
            raise
        if comm.rank:
            return 0
    return _report(path, findings, as_json=as_json, comm=comm)


def _launched(size: int, why: str) -> Finding:
    return Finding(
        "matters",
        "ranks",
        f"a launcher has started {size} tasks, but {why}: only the first one looked",
        "pip install 'fsexchange[mpi]' with the MPI of this launcher; srun --mpi=list shows others",
    )


def _alone(path: str) -> Iterator[Finding]:
    from fsexchange.cli.trials import scratch_in, try_primitives, try_speed
    from fsexchange.filesystem.advice import store_error

    yield from _here(path)
    if os.path.isdir(path):
        try:
            with scratch_in(path) as scratch:
                yield from try_primitives(scratch)
                yield from try_speed(scratch)
        except OSError as error:
            what = str(store_error(error, "make a directory in", path))
            yield Finding("unfit", "access", what, "choose another directory")


def _here(path: str) -> Iterator[Finding]:
    """Yield what this host says of a directory, without writing to it."""
    from fsexchange.cli import mounts
    from fsexchange.connector.trust import trusted_uid
    from fsexchange.store.leftovers import dead_beside

    if not os.path.isdir(path):
        yield _no_directory(path)
        return
    try:
        yield from mounts.look(path)
        if trusted_uid(f"{path}/store", trust=False) != -1:
            yield Finding(
                "note",
                "trust",
                "others may put a directory of theirs in the place of yours, so only files of your "
                "own are read",
            )
        dead = dead_beside(path)
        if dead:
            nbytes = output.size(sum(store.nbytes for store in dead))
            yield Finding(
                "matters",
                "dead stores",
                f"killed jobs have left {output.count(len(dead), 'store')} here, {nbytes}",
                f"fsexchange gc {shlex.quote(path)} --yes",
            )
    except OSError as error:
        yield Finding("unfit", "access", f"{path}: {error.strerror}", "choose another directory")


def _no_directory(path: str) -> Finding:
    what, remedy = f"there is no directory {path}", "choose another directory"
    try:
        os.stat(path)
        what = f"{path} is not a directory"
    except FileNotFoundError:
        if os.path.islink(path):
            what = f"{path} is a symbolic link to nothing"
        else:
            remedy = f"mkdir -p {shlex.quote(path)}"
    except OSError as error:
        what = f"{path}: {error.strerror}"
    return Finding("unfit", "access", what, remedy)


def _in_ranks(path: str, comm: Comm, *, named: bool) -> list[Finding]:
    """Return what all ranks find; collective. Rank 0 has it all."""
    from fsexchange.cli import ranks
    from fsexchange.cli.trials import scratch_in, try_primitives, try_speed
    from fsexchange.filesystem.advice import store_error

    hosts = ranks.hosts_of(comm)
    several = len(set(hosts)) > 1
    findings: list[Finding] = []
    with contextlib.ExitStack() as stack:
        scratch = None
        if comm.rank == 0:
            findings += _here(path)
            if os.path.isdir(path):
                try:
                    scratch = stack.enter_context(scratch_in(path))
                    findings += try_primitives(scratch)
                    findings += try_speed(scratch)
                except OSError as error:
                    what = str(store_error(error, "make a directory in", path))
                    findings.append(Finding("unfit", "access", what, "choose another directory"))
        _wait_without_spinning(comm)
        first = hosts.index(hosts[comm.rank]) == comm.rank and comm.rank > 0
        here = [f._replace(host=hosts[comm.rank]) for f in _here(path)] if first else []
        elsewhere = [finding for of_rank in comm.allgather(here) for finding in of_rank]
        findings += (f for f in elsewhere if f.level in ("matters", "unfit"))
        seen = ranks.blind_ranks(comm, scratch)
        blind = {rank: what for rank, what in seen.items() if what}
        if blind:
            findings.append(_blind(path, blind, hosts, named=named))
        elif seen:
            of = f" on {len(set(hosts))} hosts" if several else ""
            told = f"all {comm.size} ranks{of} see one directory"
            findings.append(Finding("ok", "shared", told))
            findings += ranks.try_visibility(comm, comm.bcast(scratch, 0) or "")
    return findings


def _wait_without_spinning(comm: Comm) -> None:
    """Wait for all; a rank that waits in MPI takes a core, and the first one measures speeds."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.01)


def _blind(path: str, blind: dict[int, str], hosts: list[str], *, named: bool) -> Finding:
    some = ", ".join(map(str, list(blind)[:8])) + (", ..." if len(blind) > 8 else "")
    first, what = next(iter(blind.items()))
    remedy = "choose a directory on a file system that all hosts mount, in all containers"
    return Finding(
        "unfit",
        "shared",
        f"{len(blind)} of {len(hosts)} ranks ({some}) do not see what rank 0 on {hosts[0]} made in "
        f"{path}; rank {first} on {hosts[first]}: {what}",
        remedy if named else f"{remedy}: fsexchange doctor DIR, then FSEXCHANGE_DIR=DIR",
    )


def _report(path: str, findings: list[Finding], *, as_json: bool, comm: Comm | None) -> int:
    unfit = [finding for finding in findings if finding.level == "unfit"]
    matter = [finding for finding in findings if finding.level == "matters"]
    markers = any(f.check in ("rename", "link", "sticky bit") for f in matter)
    quoted = json.dumps(f"{path}/NAME", ensure_ascii=False)
    of_connector = quoted + (", markers=True" if markers else "")
    if comm is not None:
        use = f"Exchange(comm, {of_connector})"
    else:
        use = f"Store(FileConnector({of_connector}))" if markers else f"Store({of_connector})"
    if unfit:
        verdict, code = "not fit", _NOT_FIT
    elif matter:
        verdict, code = "fit, with findings", _FIT_WITH_FINDINGS
    else:
        verdict, code = "fit", _FIT
    if as_json:
        document = {
            "directory": path,
            "ranks": 1 if comm is None else comm.size,
            "verdict": verdict,
            "use": None if unfit else use,
            "findings": [finding.document() for finding in findings],
        }
        output.print_json(document)
        return code
    output.print_table(
        ("", "CHECK", "FINDING"),
        [
            (
                "" if finding.level in ("ok", "note") else finding.level.upper(),
                finding.check,
                (f"{finding.host}: " if finding.host else "")
                + finding.what
                + (f"\n  -> {finding.remedy}" if finding.remedy else ""),
            )
            for finding in findings
        ],
    )
    click.echo()
    if unfit:
        click.echo(f"{path} is not fit: {unfit[0].what}")
    else:
        others = f"; {output.count(len(matter), 'finding')} above" if matter else ""
        click.echo(f"{path} is fit{others}. Use {use}")
    return code
