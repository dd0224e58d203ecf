"""Wait for a name to appear in a directory: by inotify(7) where possible, else by looking."""

from __future__ import annotations

import ctypes
import os
import select
import time
import weakref
from collections.abc import Callable

# Seconds between two looks. They grow from the time of a system call to a delay that no person
# notices. A look every 50 ms takes well under a hundredth of a core.
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 50e-3

# A wait longer than this is worth a watch, which takes three system calls. Even a watched directory
# is looked at now and then, because some changes cause no event.
_WATCH_AFTER, _LOOK_EVERY = 400e-6, 1.0

# inotify.h
_IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF, _IN_ONLYDIR = 0x80, 0x100, 0x400, 0x1000000

_libc = ctypes.CDLL(None, use_errno=True)


def until(
    look: Callable[[], bool],
    folder: str,
    *,
    deadline: float | None,
    watches: list[Watch] | None,
    check: Callable[[], None],
) -> bool:
    """Call `look` until it returns True; False if it does not by `deadline` (`time.monotonic`).

    Parameters
    ----------
    folder:
        The directory whose changes make `look` return True.
    watches:
        Idle watches of this process: one is taken, or made, and put back at the end. None where
        the kernel does not report all changes, because other hosts make some.
    check:
        Called after the first look that finds nothing, then at least every second. Its error
        ends the wait.
    """
    pause, checked = _FIRST_PAUSE, -_LOOK_EVERY
    watch: Watch | None = None
    try:
        while not look():
            now = time.monotonic()
            late = deadline is not None and now >= deadline
            if late or now - checked >= _LOOK_EVERY or watch is not None:
                check()
                checked = now
            if late:
                return False
            if watch is None and watches is not None and pause > _WATCH_AFTER:
                try:
                    watch = _take(watches)
                    watch.add(folder)
                    continue  # the change may have come before the watch
                except OSError:
                    watch = watches = None  # too many watches, or no directory: go on looking
            rest = _LOOK_EVERY if deadline is None else deadline - now
            if watch is not None:
                watch.wait(min(rest, _LOOK_EVERY))
            else:
                time.sleep(min(rest, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
        return True
    finally:
        if watch is not None and watches is not None:
            watch.remove()
            watches.append(watch)


def _take(watches: list[Watch]) -> Watch:
    try:
        return watches.pop()  # without a check before it: another thread could take the last one
    except IndexError:
        return Watch()


class Watch:
    """Wakes up when a name appears in a directory, or the directory goes.

    A watch is used again: to close it takes 5 ms and more while the kernel still tidies up, to
    remove the directory from it 50 us. It closes itself at garbage collection.
    """

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._watched = -1

    def add(self, folder: str) -> None:
        """Start to watch one directory."""
        events = _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_ONLYDIR
        self._watched = _libc.inotify_add_watch(self._fd, os.fsencode(folder), events)
        if self._watched < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def remove(self) -> None:
        """Stop watching; an event that is left over wakes the next user once for nothing."""
        _libc.inotify_rm_watch(self._fd, self._watched)

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`; a change since the last wait counts."""
        if self._poll.poll(1000 * seconds):
            os.read(self._fd, 1 << 16)
