"""Wait for a name to appear in a directory: by inotify(7) where possible, else by looking."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from fsexchange.filesystem.release import Releases

# Seconds between two looks. They grow from the time of a system call to a delay that no person
# notices. A look every 50 ms takes well under a hundredth of a core.
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 50e-3

# A wait longer than this is worth a watch, which takes three system calls. Even a watched directory
# is looked at now and then, because some changes cause no event.
_WATCH_AFTER, _LOOK_EVERY = 400e-6, 1.0

# inotify.h
_IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF = 0x80, 0x100, 0x400
_IN_Q_OVERFLOW, _IN_ONLYDIR = 0x4000, 0x1000000
_EVENTS = _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_ONLYDIR
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)
_close = _libc.close
_close.argtypes = [ctypes.c_int, ctypes.py_object]  # the last for `Releases`

# The files of all watches that are open.
_open = Releases()


def until(
    look: Callable[[], bool],
    folder: str,
    *,
    deadline: float | None,
    watched: bool,
    check: Callable[[], None],
) -> bool:
    """Call `look` until it returns True; False if it does not by `deadline` (`time.monotonic`).

    Parameters
    ----------
    folder:
        The directory whose changes make `look` return True.
    watched:
        Whether to have the kernel report the changes. False where other hosts make some, too.
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
            rest = _LOOK_EVERY if deadline is None else deadline - now
            try:
                if watch is None and watched and pause > _WATCH_AFTER:
                    watch = take()
                    watch.add(folder)
                    continue  # the change may have come before the watch
                if watch is not None:
                    watch.wait(min(rest, _LOOK_EVERY))
                    continue
            except OSError:
                # Too many watches, no directory, or a forked child has given this one up.
                if watch is not None:
                    put_back(watch)
                watch, watched = None, False
            time.sleep(min(rest, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True
    finally:
        if watch is not None:
            put_back(watch)


class Event(NamedTuple):
    """A name that appeared in a watched directory."""

    number: int
    """What `Watch.add` returned for the directory; -1: there were too many events to keep."""
    name: str
    """Empty: the directory is gone."""


class Watch:
    """Tells of names that appear in directories, and of directories that go.

    It is used again, see `take`, and closes itself at garbage collection.
    """

    def __init__(self) -> None:
        if not hasattr(select, "poll"):  # eventlet takes it away
            raise OSError(errno.ENOSYS, "select has no poll")
        self._file = ctypes.c_int(-1)
        _open.add(self, _close, self._file)
        (self._file.value,) = map(_libc.inotify_init1, (os.O_CLOEXEC | os.O_NONBLOCK,))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._numbers: set[int] = set()
        _all.add(self)

    @property
    def _fd(self) -> int:
        return self._file.value

    def add(self, folder: str) -> int:
        """Start to watch a directory; return the number that its events will have."""
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _EVENTS)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self._numbers.add(number)
        return number

    def remove(self, number: int) -> None:
        """Stop watching a directory; events that are left over still come."""
        self._numbers.discard(number)
        _libc.inotify_rm_watch(self._fd, number)

    def clear(self) -> None:
        """Stop watching all directories."""
        while self._numbers:
            self.remove(self._numbers.pop())

    def wait(self, seconds: float, *, wake: int = -1) -> list[Event]:
        """Return what has happened since the last wait; if nothing, wait at most `seconds`.

        A descriptor `wake` that can be read ends the wait, too. `OSError` in a forked child.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if wake >= 0:
            poll.register(wake, select.POLLIN)
        if self._fd not in dict(poll.poll(1000 * seconds)):
            return []
        data = os.read(self._fd, 1 << 16)
        events = []
        while data:
            number, mask, _, length = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
            data = data[_EVENT.size + length :]
            if name or mask & (_IN_DELETE_SELF | _IN_Q_OVERFLOW):
                events.append(Event(number, os.fsdecode(name)))
        return events

    def _give_up(self) -> None:
        """Close it: the events that a forked child read would be lost to its parent."""
        os.closerange(self._fd, self._fd + 1)
        self._file.value = -1


# Idle watches of this process. To close one takes 5 ms and more while the kernel still tidies up,
# to remove a directory from it 50 us. Many are not worth keeping: a user has 128 in all.
_idle: list[Watch] = []
_MOST_IDLE = 4

_all: weakref.WeakSet[Watch] = weakref.WeakSet()


def take() -> Watch:
    """Return a watch to use until it is put back; `OSError` if the user has too many."""
    try:
        return _idle.pop()  # without a check before it: another thread could take the last one
    except IndexError:
        return Watch()


def put_back(watch: Watch) -> None:
    """Stop using a watch."""
    if watch._fd < 0:
        return
    watch.clear()
    _idle.append(watch)
    while len(_idle) > _MOST_IDLE:
        try:
            _idle.pop(0)
        except IndexError:
            pass  # other threads took them all


def _in_forked_child() -> None:
    _idle.clear()
    for watch in tuple(_all):
        watch._give_up()


os.register_at_fork(after_in_child=_in_forked_child)
