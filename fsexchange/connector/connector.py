"""FileConnector: bytes in, keys out, through files in a directory that all processes share."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fsexchange.connector.directory import attach_directory, open_directory
from fsexchange.connector.keys import FileKey, check_key
from fsexchange.connector.layout import CLAIM, PACKED_BELOW, UNIT
from fsexchange.connector.packing import Packing, Run, Tail, grouped
from fsexchange.connector.segment import padding
from fsexchange.errors import (
    CorruptObjectError,
    FsExchangeError,
    InvalidKeyError,
    KeyExistsError,
    MissingObjectError,
    StoreClosedError,
    WaitTimeoutError,
)
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.kinds import Policy, find_filesystem
from fsexchange.filesystem.watch import Watch, until

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    from fsexchange.filesystem.files import Buffers, BytesLike

# All of this process, for a forked child to begin anew with.
_connectors: weakref.WeakSet[FileConnector] = weakref.WeakSet()


def _in_forked_child() -> None:
    """Give up what is the parent's: directories to write to, watches whose events it waits for.

    Its open files are closed now, while their numbers still stand for them: the child may close
    all there are, as daemons do. (Comparing pids would cost each put a system call.)
    """
    for connector in tuple(_connectors):
        connector._writers.clear()
        connector._watches.clear()
        connector._close_files()


os.register_at_fork(after_in_child=_in_forked_child)


# So many small objects of a process get a file of their own: who puts a few, and ends, leaves no
# segment behind that is yet to be filled.
_ALONE = 16

# Stands for the key of an object that is yet to be written.
_NO_KEY = FileKey("")

# In the name of a claim that all sets of a plain name by one process share.
_SHARED = 16 * "0"


class _Writer:
    """One directory that only the calling process creates names in, and its next number."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = itertools.count()
        self.small = 0  # objects of put that could share a file
        self.tails: list[Tail] = []  # to append to, unless another thread does just now

    def next_name(self) -> str:
        return f"{self.name}/{next(self.numbers)}"


def _seal(writers: dict[str, _Writer]) -> None:
    """Give up what this process could still append to segments."""
    for writer in tuple(writers.values()):
        while writer.tails:
            with contextlib.suppress(IndexError):  # another thread has the last one
                writer.tails.pop().seal()


def _length(key: Any) -> int:
    """Return the length that a key promises, or -1; ProxyStore's own keys promise none."""
    nbytes: int = getattr(key, "nbytes", -1)
    return nbytes


class FileConnector:
    """Objects as files in a shared directory, with the verbs of ProxyStore's FileConnector.

    Whoever makes the directory owns it: the owner's `close`, or its clean exit without one,
    removes the objects and the directory. Everyone else is attached and removes nothing: a
    connector on the same directory, made by `from_config`, unpickled, or in a forked child.

    Objects are written once and read by many. `put` returns a key after the whole object is in
    place, and `set` puts a whole object in place at once, so readers never see half of one.

    Parameters
    ----------
    store_dir:
        Directory to share; made with mode 0700 if missing, its parents too. All processes must
        see it under the same path.
    clear:
        Whether the store ends with its owner. A store made with `clear=False` is kept until
        somebody calls `close(clear=True)`. What the owner chose counts for everyone.
    markers:
        Publish by an empty file `<name>.ready` instead of a rename, for mounts without an atomic
        one (object stores behind FUSE). It is ProxyStore's layout on disk: each reads the
        other's directory.
    write_once:
        A second `set` of a key is a `KeyExistsError`, decided atomically between processes.
    trust_directory:
        Accept a symlink, another user's directory, or one that others can write to. Only where
        you would run those users' code.
    store_id:
        Attach to this very store, and never make one. Comes with `config`.

    Raises
    ------
    UntrustedDirectoryError
        The directory could be changed by others.
    StoreClosedError
        The store of that `store_id` is gone.
    StoreError
        The file system refuses: the message says what and where.

    Notes
    -----
    Threads may share a connector; no lock is held, none taken. A dead owner's store (killed on
    this host, or silent for five minutes on another) is adopted by the next who opens it without
    a `store_id`, objects included.

    >>> with FileConnector("/dev/shm/fsexchange-doctest") as connector:
    ...     key = connector.put(b"an object")
    ...     bytes(connector.get(key))
    b'an object'
    """

    def __init__(
        self,
        store_dir: str | os.PathLike[str],
        *,
        clear: bool = True,
        markers: bool = False,
        write_once: bool = False,
        trust_directory: bool = False,
        store_id: str | None = None,
    ) -> None:
        if not os.fspath(store_dir):
            raise ValueError("store_dir is empty; pass the path of a directory")
        self.store_dir = os.path.abspath(os.fspath(store_dir))
        self.clear = clear
        self.write_once = write_once
        self.trust_directory = trust_directory
        if store_id is None:
            self.directory = open_directory(
                self.store_dir, clear=clear, markers=markers, trust=trust_directory
            )
        else:
            self.directory = attach_directory(
                self.store_dir, store_id, markers=markers, trust=trust_directory
            )
        # `directory` and `policy` are for the layers above.
        self.store_id = self.directory.store_id
        self.markers = self.directory.markers
        self._closed = False
        self._writers: dict[str, _Writer] = {}
        self._watches: list[Watch] = []
        _connectors.add(self)
        # A connector that nobody closes, as those that come as arguments of a task.
        weakref.finalize(self, _seal, self._writers)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owned else "attached"
        return f"{type(self).__name__}({self.store_dir!r}, {state})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_config, (self.config(),)

    @property
    def owned(self) -> bool:
        """Whether `close` in this process ends the store."""
        return self.directory.owned

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to attach to this very store, from any process."""
        return {
            "store_dir": self.store_dir,
            "clear": self.clear,
            "markers": self.markers,
            "write_once": self.write_once,
            "trust_directory": self.trust_directory,
            "store_id": self.store_id,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a connector for `config`; it attaches, and `StoreClosedError` if there is none.

        A configuration written by hand, without a `store_id`, makes a store if there is none.
        """
        return cls(**config)

    def close(self, clear: bool | None = None) -> None:
        """End the use of this connector; in the owner's process, end the store.

        `clear` overrides: False keeps the store for good, True removes it by whoever calls, and
        with it everyone's objects. Mappings that readers have stay good. Closing again does
        nothing.
        """
        if clear or (clear is None and self.clear and self.owned):
            self.directory.clear()
            self._writers.clear()
        elif self.owned:
            self.directory.keep()
        _seal(self._writers)
        self._close_files()
        self._closed = True
        self._writers.clear()
        self._watches.clear()

    def put(self, obj: Buffers, *, alone: bool = False) -> FileKey:
        """Write one object and return its key.

        `obj` is a bytes-like object, or a list or tuple of them, written one after the other
        without being joined. Three system calls. On any failure nothing of it is left.

        Where no other host writes, a process that has put some objects under 64 KiB appends the
        next ones to one file of 1 MiB, in two system calls; with `alone` the object has a file of
        its own, whose `path` you may pass on.

        Raises
        ------
        StoreError
            The file system refuses (disk full, quota, permissions); later puts may work.
        StoreClosedError
            The store is gone.
        """
        pieces, nbytes = files.flatten(obj)
        writer = self._writer("put")
        if nbytes < PACKED_BELOW and not alone:
            writer.small += 1
            if writer.small > _ALONE and self._appends:
                return self._packing.append(writer.tails, writer.next_name, pieces, nbytes)
        return self._create(writer, pieces, nbytes)

    def put_batch(self, objs: Sequence[Buffers]) -> list[FileKey]:
        """Write several objects and return their keys in order; all of them or none.

        Those under 64 KiB share one file, made and written at once, except with `markers`, whose
        other readers know nothing of it. Each is evicted by itself; the file goes with the last.
        """
        keys: list[FileKey] = []
        packed: list[Buffer] = []
        sizes: list[int] = []
        where: list[int] = []
        try:
            for obj in objs:
                pieces, nbytes = files.flatten(obj)
                if nbytes < PACKED_BELOW and not self.markers:
                    where.append(len(keys))
                    sizes.append(nbytes)
                    packed += pieces
                    if nbytes % UNIT or not nbytes:
                        packed.append(padding(nbytes))
                    keys.append(_NO_KEY)
                else:
                    keys.append(self._create(self._writer("put"), pieces, nbytes))
            for n, key in zip(where, self.put_packed(packed, sizes), strict=True):
                keys[n] = key
        except BaseException:
            with contextlib.suppress(FsExchangeError):
                self.evict_batch([key for key in keys if key is not _NO_KEY])
            raise
        return keys

    def put_packed(self, pieces: list[Any], sizes: Sequence[int]) -> list[FileKey]:
        """Write objects under 64 KiB to one new file and return their keys in order.

        `pieces` are the contiguous buffers of one object after the other, each of `sizes` bytes and
        filled up to a multiple of 64, at least 64. Not with `markers`.
        """
        if not sizes:
            return []
        return self._packing.write(self._writer("put").next_name(), pieces, sizes)

    def reserve(self, head: bytes, nbytes: int) -> FileKey:
        """Make an object of `nbytes` bytes that begins with `head`, its rest zero; return its key.

        The rest is for `fill`. Until that is done, readers see what is there. Raises as `put`.
        """
        key = self.put(head, alone=True)
        path = self.path(key)
        try:
            os.truncate(path, nbytes)
        except OSError as error:
            self.evict(key)
            raise self.directory.explain(error, "write", path) from error
        return FileKey(key.filename, nbytes)

    def fill(self, key: FileKey, pieces: Iterable[tuple[int, Buffer]]) -> None:
        """Write each piece, a contiguous buffer, at its offset in an object made by `reserve`.

        Processes may fill one object at a time, on network file systems too, where their pieces do
        not overlap. Raises as `put`.
        """
        path = self.path(key)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for offset, piece in pieces:
                    files.write(fd, [piece], memoryview(piece).nbytes, offset)
            finally:
                os.close(fd)  # checked: where NFS and quotas report what was not written
        except OSError as error:
            raise self.directory.explain(error, "write", path) from error

    def get(self, key: FileKey) -> BytesLike | None:
        """Return an object as a writable buffer of the caller's own, or None if there is none.

        From 1 MiB on it is a private mapping, wherever the file system can be trusted with one:
        nothing is read before it is touched, nothing copied before it is written to, and the
        file never changes.

        Raises
        ------
        CorruptObjectError
            The object is not as long as it was when it was put.
        StoreClosedError
            The store is gone, and the object with it.
        StoreError
            The file system refuses.
        """
        if getattr(key, "offset", 0):
            self.check_open()
            return self._packing.read(key)
        path = self.path(key)
        nbytes = _length(key)
        # Small objects are never mapped: the kind of file system need not be found out for them.
        mappable = 0 <= nbytes < files.MAP_FROM or self.policy.mappable
        tries = publish.TRIES
        while True:
            try:
                if nbytes < 0 and not self._may_open(path):
                    break
                read = publish.read_marked if self.markers else files.read
                return read(path, nbytes, mappable=mappable)
            except FileNotFoundError:
                break
            except CorruptObjectError:
                if nbytes < 0 or not os.path.lexists(f"{path}.set"):
                    raise
                nbytes = -1  # replaced by set, whole, with another length than the key's
            except OSError as error:
                tries -= 1
                if error.errno not in publish.REPLACED or not tries:
                    raise self.directory.explain(error, "read", path) from error
        self.directory.check()
        return None

    def get_part(self, key: FileKey, offset: int, nbytes: int) -> BytesLike | None:
        """Return `nbytes` bytes of an object from `offset` on, else as `get`; no others are read.

        `CorruptObjectError` if it ends before.

        >>> with FileConnector("/dev/shm/fsexchange-doctest") as connector:
        ...     key = connector.put(b"an object")
        ...     bytes(connector.get_part(key, 3, 6))
        b'object'
        """
        if offset < 0 or nbytes < 0:
            raise ValueError(f"no part of an object: {nbytes} bytes from {offset} on")
        path = self.path(key)
        if getattr(key, "offset", 0):
            data = self.get(key)
            if data is not None and offset + nbytes > len(data):
                raise CorruptObjectError(
                    f"{key} ends after {len(data)} bytes, before byte {offset + nbytes}", path=path
                )
            return None if data is None else data[offset : offset + nbytes]
        mappable = nbytes < files.MAP_FROM or self.policy.mappable
        try:
            if _length(key) >= 0 or self._may_open(path):
                return files.read_part(path, offset, nbytes, mappable=mappable)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.directory.explain(error, "read", path) from error
        self.directory.check()
        return None

    def get_batch(self, keys: Sequence[FileKey]) -> list[Any]:
        """Return what `get` returns for each of several keys, in their order.

        Of objects that share a file, neighbours are read together.
        """
        # Any, as ProxyStore has a type of its own for buffers, and lists are invariant.
        found, runs = self.get_runs(keys)
        for numbers, run, begins, sizes in runs:
            ends = (begins + sizes).tolist()
            for n, begin, end in zip(numbers.tolist(), begins.tolist(), ends, strict=True):
                found[n] = bytearray(run[begin:end])
        if any(data is None for data in found):
            self.directory.check()
        return found

    def get_runs(self, keys: Sequence[FileKey]) -> tuple[list[Any], Iterator[Run]]:
        """Return what `get_batch` returns, but that objects which share files come in runs.

        They are None in the list.
        """
        self.check_open()
        found: list[Any] = [None] * len(keys)
        alone, groups = grouped(keys)
        for n in alone:
            found[n] = self.get(keys[n])
        return found, self._packing.read_runs(groups) if groups else iter(())

    def exists(self, key: FileKey) -> bool:
        """Tell whether there is an object under the key.

        Raises `StoreClosedError` if the store is gone, `StoreError` if the file system refuses.
        For an object that another host evicts it may be True for as long as this host's mount
        caches attributes, up to 30 s by default on NFS.
        """
        if self._is_there(self.path(key), key):
            return True
        self.directory.check()
        return False

    def evict(self, key: FileKey) -> None:
        """Remove an object; no error if there is none. Whoever has it mapped keeps it."""
        if getattr(key, "offset", 0):
            self.check_open()
            self._packing.evict(key)
            return
        path = self.path(key)
        try:
            if self.markers:
                files.unlink(f"{path}.ready")  # first: a marker promises an object
            os.unlink(path)
            if "/" not in key.filename and "set" in self._writers:
                files.unlink(self._claim(key.filename, _SHARED))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.directory.explain(error, "remove", path) from error

    def evict_batch(self, keys: Sequence[FileKey]) -> None:
        """Remove several objects; no error for those that are not there."""
        self.check_open()
        alone, groups = grouped(keys)
        for n in alone:
            self.evict(keys[n])
        if groups:
            self._packing.evict_batch(groups)

    def new_key(self, obj: object = None) -> FileKey:
        """Return a key for an object that any process can `set` later. `obj` is ignored."""
        # Its objects are looked for in listings, which must stay short: they have a directory
        # apart from those of put.
        writer = self._writer("new_key", signed=True)
        return FileKey(f"{writer.name}/{next(writer.numbers)}")

    def set(self, key: FileKey, obj: Buffers, *, write_once: bool | None = None) -> None:
        """Put an object in place under a key; readers see none of it or all of it.

        A second `set` replaces the object (the last one wins), or with `write_once` (None: as the
        connector was made) is a `KeyExistsError`, of racing processes for all but one.

        With `markers`, a replacement is whole for readers that are fsexchange's own, and only one
        process may set a key at a time, as there is no atomic rename; between two objects there
        is a moment without one.

        Raises what `put` raises. The key may be a plain name of your choosing; its object takes
        the place of a file of that name in the directory.
        """
        path = self.path(key)
        if getattr(key, "offset", 0):
            raise InvalidKeyError(
                f"{key}: its object shares a file with others, and cannot be set; `new_key` makes "
                "keys to be set",
                filename=key.filename,
            )
        pieces, nbytes = files.flatten(obj)
        once = self.write_once if write_once is None else write_once
        note = ""
        if "/" not in key.filename:
            # Not a name of ours: without a note the owner could not tell it from a user's file.
            # One of its own where setters race, as the losers take theirs away.
            note = self._claim(key.filename, os.urandom(8).hex() if once else _SHARED)
        elif _length(key) not in (-1, nbytes):
            note = f"{path}.set"  # readers with the old length look for it
        try:
            # Before the object, so that a crash leaves no object without its note.
            with publish.noted(note):
                if self.markers:
                    publish.by_marker(path, pieces, nbytes, once=once)
                elif once:
                    publish.by_link(path, pieces, nbytes)
                else:
                    publish.by_rename(path, pieces, nbytes)
        except FileExistsError as error:
            if not once:
                raise self.directory.explain(error, "write", path) from error
            raise KeyExistsError(
                f"{key} is set already and stays as it is (write_once)", path=path
            ) from None
        except OSError as error:
            raise self.directory.explain(error, "write", path) from error

    def wait(self, key: FileKey, timeout: float | None = None) -> None:
        """Return once there is an object under the key.

        On file systems of one host the kernel tells, within a millisecond; on others it is looked
        for, every 50 ms after a while, in a way that does not hide it.

        Raises
        ------
        WaitTimeoutError
            There is none after `timeout` seconds (None: wait for ever); it says what is known.
        MissingObjectError
            The key is from `put`, so its object was there and has been evicted for good.
        StoreClosedError
            The store is gone.
        """
        path = self.path(key)

        def check() -> None:
            self.check_open()
            self.directory.check()
            if _length(key) >= 0:
                raise MissingObjectError(f"{key} was evicted from {self.store_dir}", path=path)

        if not until(
            lambda: self._is_there(path, key),
            os.path.dirname(path),
            deadline=None if timeout is None else time.monotonic() + timeout,
            watches=self.watches(),
            check=check,
        ):
            raise WaitTimeoutError(
                f"{key} in {self.store_dir} was never set, or evicted again, within {timeout:g} s; "
                + self.directory.describe(key.filename),
                path=path,
                timeout=timeout,
            )

    def watches(self) -> list[Watch] | None:
        """Return this process's idle watches, for `until`; None if the store cannot be watched."""
        return None if self.policy.network else self._watches

    # ---- how ------------------------------------------------------------------------------------

    def _create(self, writer: _Writer, pieces: Sequence[Buffer], nbytes: int) -> FileKey:
        """Write an object to a file of its own."""
        filename = f"{writer.name}/{next(writer.numbers)}"
        path = f"{self.store_dir}/{filename}"
        try:
            files.create(path, pieces, nbytes)
            if self.markers:
                publish.mark(path)
        except OSError as error:
            raise self.directory.explain(error, "write", path) from error
        return FileKey(filename, nbytes)

    def _close_files(self) -> None:
        if "_packing" in vars(self):
            self._packing.close()

    @cached_property
    def _packing(self) -> Packing:
        return Packing(self.directory, network=self.policy.network)

    @cached_property
    def _appends(self) -> bool:
        """Whether small objects of put share files: what is written is seen while they are open."""
        return not self.markers and not self.policy.network

    @cached_property
    def policy(self) -> Policy:
        """What may be asked of the file system that the store is on."""
        try:
            return find_filesystem(self.store_dir).policy
        except OSError as error:
            raise self.directory.explain(
                error, "find the file system of", self.store_dir
            ) from error

    def check_open(self) -> None:
        """Raise `StoreClosedError` if this connector was closed."""
        if self._closed:
            raise StoreClosedError(
                f"this connector to {self.store_dir} was closed; make another one",
                path=self.store_dir,
                errno=errno.EBADF,
            )

    def path(self, key: FileKey) -> str:
        """Return where the object of a key is, or would be; `InvalidKeyError` if it is none."""
        filename = check_key(key)
        self.check_open()
        if "/" not in filename:
            self.directory.check()  # another store in this place may have the same plain name
        return f"{self.store_dir}/{filename}"

    def _claim(self, filename: str, token: str) -> str:
        """Return the note that says: the file of this plain name is an object."""
        return f"{self.store_dir}/{self._writer('set').name}/{CLAIM}{token}-{filename}"

    def _writer(self, purpose: str, *, signed: bool = False) -> _Writer:
        """Return this process's directory for one purpose; threads that race each get one."""
        writer = self._writers.get(purpose)
        if writer is None:
            self.check_open()
            writer = self._writers[purpose] = _Writer(self.directory.make_writer(signed=signed))
        return writer

    def _may_open(self, path: str) -> bool:
        return self.policy.may_open(f"{path}.ready" if self.markers else path)

    def _is_there(self, path: str, key: FileKey) -> bool:
        if getattr(key, "offset", 0):
            return self._packing.is_live(key)
        name = f"{path}.ready" if self.markers else path
        try:
            if _length(key) < 0 and not self._may_open(path):
                return False
            os.stat(name)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self.directory.explain(error, "look at", name) from error
