"""`fsexchange du`: what a store takes."""

from __future__ import annotations

import os
from collections import Counter

import click

from fsexchange.cli import output
from fsexchange.cli.options import json_option, look_into, store_argument

_KINDS = {
    "object": "objects with their own file",
    "segment": "segments, of small objects",
    "partial": "partial, or being written",
    "name": "names",
    "own": "fsexchange's own",
    "foreign": "not made by fsexchange",
}


@click.command("du")
@store_argument
@json_option
def command(directory: str | None, store: str | None, as_json: bool) -> None:
    """Show how much space a store takes, and how much is free."""
    found = look_into(directory or store)
    from fsexchange.connector import inventory

    path = found["store_dir"]
    files: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    allocated: Counter[str] = Counter()
    evicted = 0
    for item in inventory.items(path, markers=found["markers"]):
        files[item.kind] += 1
        nbytes[item.kind] += item.nbytes
        allocated[item.kind] += item.allocated
        if item.kind == "segment":
            evicted += item.nbytes - inventory.live_bytes(path, item.filename)
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    inodes = status.f_favail if status.f_files else None  # Btrfs makes them as needed
    if as_json:
        kinds = {
            kind: {"files": files[kind], "bytes": nbytes[kind], "allocated": allocated[kind]}
            for kind in _KINDS
        }
        document = {"store": path, **kinds, "evicted": evicted, "free": free, "inodes": inodes}
        output.print_json(document)
        return
    rows = [
        (text, str(files[kind]), output.size(nbytes[kind]), output.size(allocated[kind]))
        for kind, text in _KINDS.items()
        if files[kind] or kind == "object"
    ]
    total = (sum(files.values()), sum(nbytes.values()), sum(allocated.values()))
    rows.append(("total", str(total[0]), output.size(total[1]), output.size(total[2])))
    output.print_table(("", "FILES>", "LENGTH>", "ON DISK>"), rows)
    if evicted:
        click.echo(f"{output.size(evicted)} of the segments are flags and evicted objects")
    and_inodes = "" if inodes is None else f" and {inodes:,} inodes"
    click.echo(f"{output.size(free)}{and_inodes} are free at {path}")
