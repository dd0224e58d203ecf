"""A bar on stderr for what takes longer than a second, where stderr is a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

# Seconds before a bar shows.
_AFTER = 1.0

Advance: TypeAlias = "Callable[[int], object] | None"


@contextlib.contextmanager
def progress(doing: str, total: int | None = None) -> Iterator[Advance]:
    """Show how far something is; yield what to call with each number of bytes that are done.

    None where nobody looks. Without a `total` the bar only shows that something goes on.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(doing, total)
    try:
        yield bar.advance
    finally:
        bar.stop()


class _Bar:
    """Starts itself in a thread, so that what is waited for need not call `advance`."""

    def __init__(self, doing: str, total: int | None) -> None:
        self._doing = doing
        self._total = total
        self._done = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def advance(self, nbytes: int) -> None:
        self._done += nbytes

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _show(self) -> None:
        if self._stopped.wait(_AFTER):
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        columns = [TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
        if self._total is not None:
            columns += [DownloadColumn(binary_units=True), TransferSpeedColumn()]
        with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task(self._doing, total=self._total)
            while not self._stopped.wait(0.1):
                shown.update(task, completed=self._done)
