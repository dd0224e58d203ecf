"""FileConnector: bytes in, keys out, through files in a directory that all processes share."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from operator import index
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from fsexchange.connector import layout
from fsexchange.connector.attachment import Attachment, attachment_to
from fsexchange.connector.batch import grouped, keys_in_segment
from fsexchange.connector.detector import FailureDetector
from fsexchange.connector.directory import Directory, closed_error
from fsexchange.connector.geometry import SEGMENT_BELOW, UNIT, padding
from fsexchange.connector.keys import FileKey, checked
from fsexchange.connector.labels import Labels
from fsexchange.connector.opening import attach_directory, open_directory
from fsexchange.connector.ownfiles import OwnFiles, put_own, read_own
from fsexchange.connector.place import place
from fsexchange.connector.segments import Extent
from fsexchange.connector.writers import tidy
from fsexchange.errors import (
    CorruptObjectError,
    FsExchangeError,
    InvalidKeyError,
    KeyExistsError,
    MissingObjectError,
    StoreClosedError,
    StoreError,
    WaitTimeoutError,
)
from fsexchange.filesystem import files, transfer
from fsexchange.filesystem.markers import MARKERS
from fsexchange.filesystem.publish import RENAMING

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    from fsexchange.connector.hostcache import HostCache
    from fsexchange.filesystem.files import Buffers, BytesLike
    from fsexchange.filesystem.transfer import Progress

T = TypeVar("T")


def _warn(path: str, directory: Directory) -> None:
    # It is not cleared: keys outlive the object that made them. (No `__del__`: in one the exception
    # of a signal handler would be lost, and most connectors that are dropped are attached.)
    if directory.owned:
        warnings.warn(
            f"the owner of the store at {path} was dropped and not closed: close it, or use `with`",
            ResourceWarning,
            stacklevel=2,
        )


def is_missing(error: StoreError) -> bool:
    """Return whether an error of a file to be made says that its directory is gone."""
    return error.errno == errno.ENOENT and not isinstance(error, StoreClosedError)


# Stands for the key of an object that is yet to be written.
_NO_KEY = FileKey("")


class FileConnector:
    """Objects as files in a shared directory, with the verbs of ProxyStore's FileConnector.

    The process that makes the directory owns it: the owner's `close`, or its clean exit without
    one, removes the objects and the directory. Every other connector is attached and removes
    nothing, whether it opens the same directory, is made by `from_config` or unpickled, or is in a
    forked child.

    Objects are written once and read by many. `put` returns a key after the whole object is in
    place, and `set` puts a whole object in place at once, so readers never see half of one.

    Parameters
    ----------
    store_dir:
        Directory to share; made with mode 0700 if missing, its parents too. All processes must
        see it under the same path. One that was there before stays when the store ends. On a
        network file system make each store in a place of its own: a host remembers for some time
        (measured: GlusterFS 1 s, sshfs 20 s, others up to their cache's 30 s) the store that
        another host has ended there, and attaches to that, or raises `StoreError`.
    clear:
        Whether the store ends with its owner. Once any process has opened it with `clear=False`, or
        closed it so, it is kept for everyone until somebody calls `close(clear=True)`.
    markers:
        Publish by a second file `<name>.ready` instead of a rename, for mounts without an atomic
        rename (object stores behind FUSE). It is ProxyStore's layout on disk: each library reads
        the other's directory.
    write_once:
        A second `set` of a key is a `KeyExistsError`, decided atomically between processes.
    trust_directory:
        Accept a symlink, another user's directory, or one that others can write to. Only where
        you would run those users' code. It shares no objects with them: files have mode 0600.
    store_id:
        Attach to this very store, and never make one. It is a part of `config`.

    Raises
    ------
    ValueError
        `store_dir` is empty, or cannot be a path here.
    UntrustedDirectoryError
        The directory could be changed by others.
    StoreClosedError
        The store of that `store_id` is gone.
    StoreError
        The file system refuses: the message says what and where.

    Notes
    -----
    Threads may share a connector; it takes no lock. On a file system of one host the next process
    that opens a dead owner's store without a `store_id` adopts it, objects included. On others
    nobody can know an owner dead: a warning says for how long it has been silent.

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
        self.store_dir = place(store_dir)
        self.clear = clear
        self.write_once = write_once
        self.trust_directory = trust_directory
        if store_id is None:
            self.directory = open_directory(
                self.store_dir, clear=clear, markers=markers, trust=trust_directory
            )
        else:
            self.directory = attach_directory(
                self.store_dir, store_id, clear=clear, markers=markers, trust=trust_directory
            )
        self.store_id = self.directory.store_id
        self.markers = self.directory.markers
        self._closed = False
        if self.owned and clear:
            self._dropped = weakref.finalize(self, _warn, self.store_dir, self.directory)
            self._dropped.atexit = False
        self._shared = attachment_to(self.directory)
        self._own = OwnFiles(self.directory, MARKERS if self.markers else RENAMING)
        # Where files are published by markers, to read one is more than to open it.
        self._folder = b"" if self.markers else os.fsencode(f"{self.store_dir}/")
        self._detector = FailureDetector(self.directory)

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

    @property
    def labels(self) -> Labels:
        """Short texts under names of the caller's choice, for the names of objects."""
        return Labels(self._own, f"{self.store_dir}/{layout.NAMES}", self._check, self.guard)

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
        """Return a connector attached to the store of `config`; `StoreClosedError` if it is gone.

        A configuration written by hand, without a `store_id`, makes a store if there is none.
        """
        return cls(**config)

    def close(self, clear: bool | None = None) -> None:
        """Stop using this connector; in the owner's process, end the store.

        With `clear` False the store is kept for good, with True it is removed with everyone's
        objects, whichever process calls. Readers' mappings stay valid. Closing again does nothing.
        """
        if clear or (clear is None and self.clear and self.owned):
            self.directory.clear(kept=clear is True)
        elif (clear is False or self.owned) and not self._closed:
            there = self.directory.keep()
            if clear is False and not there:
                raise closed_error(self.store_dir, self.store_id)
        self._closed = True
        self._shared = Attachment(self.directory)  # the other connectors keep what they have

    def put(self, obj: Buffers, *, tells_length: bool = False) -> FileKey:
        """Write one object and return its key.

        `obj` is a bytes-like object, or a list or tuple of them, written one after the other
        without being joined. Three system calls. If anything fails, nothing of it is left.

        With `tells_length` it begins as `serialize` or a `.npy` file does, with its length: so `gc`
        can tell what a killed writer has left of it from what somebody has put.

        Raises
        ------
        StoreError
            The file system refuses (disk full, quota, permissions); later puts may work.
        StoreClosedError
            The store is gone.
        """
        renewed = False
        while True:
            name = self._next_name(tells_length)
            try:
                return self._create(obj, name)
            except StoreError as error:
                if renewed or not self._make_new_directory(error):
                    raise
                renewed = True
            except BaseException:  # of a signal handler, on the way from the last system call
                with contextlib.suppress(FsExchangeError):
                    self.evict(FileKey(name))
                raise

    def put_batch(self, objs: Sequence[Buffers], *, tells_length: bool = False) -> list[FileKey]:
        """Write several objects and return their keys in order; all of them or none.

        Those under 64 KiB share one file, a segment. Each can be evicted alone; the file goes with
        the last. With `markers` each has its own file, because ProxyStore's readers know no
        segments. `tells_length` is as for `put`.
        """
        keys: list[FileKey] = []
        try:
            self._put_each(objs, keys, tells_length=tells_length)
        except BaseException:
            with contextlib.suppress(FsExchangeError):
                self.evict_batch([key for key in keys if key is not _NO_KEY])
            raise
        return keys

    def _put_each(
        self, objs: Sequence[Buffers], keys: list[FileKey], *, tells_length: bool
    ) -> None:
        put = partial(self.put, tells_length=tells_length)
        small: list[Buffer] = []
        sizes: list[int] = []
        where: list[int] = []
        for obj in objs:
            pieces, nbytes = files.flatten(obj)
            if nbytes < SEGMENT_BELOW and not self.markers:
                where.append(len(keys))
                sizes.append(nbytes)
                small += pieces
                if nbytes % UNIT or not nbytes:
                    small.append(padding(nbytes))
                keys.append(_NO_KEY)
            else:
                keys.extend(map(put, (pieces,)))  # with no moment between
        if not sizes:
            return

        def create(name: str) -> None:
            for n, key in zip(where, keys_in_segment(name, sizes), strict=True):
                keys[n] = key
            self._shared.segments.create(keys[where[0]].filename, small)

        self._with_name(create, tells_length=tells_length)  # as in `put`, the keys first

    def put_alike(self, head: bytes, bodies: Sequence[Buffer], nbytes: int) -> list[FileKey]:
        """Write objects of `nbytes` bytes each and return their keys in order; all or none.

        Each object is `head` followed by one of `bodies`, contiguous buffers of one length. Does
        what `put_batch` does, without a look at each object.
        """
        if len(bodies) == 0 or not 0 < nbytes < SEGMENT_BELOW or self.markers:
            objs = [[head, body] for body in bodies]
            return self.put_batch(objs, tells_length=True)
        rest = padding(nbytes)
        each = zip(repeat(head), bodies, repeat(rest)) if rest else zip(repeat(head), bodies)
        pieces = list(chain.from_iterable(each))

        def create(name: str) -> list[FileKey]:
            keys = keys_in_segment(name, [nbytes] * len(bodies))
            self._shared.segments.create(keys[0].filename, pieces)
            return keys

        return self._with_name(create, tells_length=True)

    def put_file(
        self, source: int, head: Callable[[int], bytes], progress: Progress = None
    ) -> FileKey:
        """Write one object from the rest of an open file and return its key.

        Before that comes `head` of its length, which is not known of a pipe until its end: so
        `head` returns as many bytes for any length. The object tells its length as for `put`. A
        whole file without a head shares its blocks where the file system can do that, and in most
        cases the kernel copies. Raises what `put` raises, and `OSError` if `source` cannot be read.
        """
        key = path = None
        try:
            put = partial(self.put, tells_length=True)
            (key,) = map(put, (b"",))  # with no moment between
            path = f"{self.store_dir}/{key.filename}"
            return FileKey(key.filename, transfer.write_with_head(path, head, source, progress))
        except BaseException as error:  # nobody will ever have the key
            if key is not None:
                with contextlib.suppress(FsExchangeError):
                    self.evict(key)
            if path is None or not isinstance(error, OSError):
                raise
            raise self.directory.error(error, "write", path) from error

    def reserve(self, head: bytes, nbytes: int) -> FileKey:
        """Make an object of `nbytes` bytes, `head` and then zeros, and return its key.

        `fill` writes the rest. Until then readers see an incomplete object. Raises what `put`
        raises.
        """
        key = self.put(head)
        path = f"{self.store_dir}/{key.filename}"
        try:
            files.reserve(path, nbytes)
        except BaseException as error:  # nobody will ever have the key
            with contextlib.suppress(FsExchangeError):
                self.evict(key)
            if not isinstance(error, OSError):
                raise
            raise self.directory.error(error, "write", path) from error
        return FileKey(key.filename, nbytes)

    def fill(self, key: FileKey, pieces: Iterable[tuple[int, Buffer]]) -> None:
        """Write each piece, a contiguous buffer, at its offset in an object made by `reserve`.

        Several processes may fill one object at the same time, on network file systems, too, if
        their pieces do not overlap. Raises what `put` raises, and `ValueError` for a piece that is
        not inside of the object.
        """
        key = checked(key)
        path = self._path(key.filename)
        if key.offset:  # the pieces would overwrite the flags of the other objects
            raise InvalidKeyError(
                f"{key}: its object shares a file with others, and cannot be filled; `reserve` "
                "makes keys to be filled",
                filename=key.filename,
            )
        try:
            files.fill(path, pieces, key.nbytes)
        except OSError as error:
            raise self.directory.error(error, "write", path) from error

    def move(self, key: FileKey, to: FileKey) -> FileKey:
        """Give an object of `put` or `reserve` another key, one of `new_key`, and return it.

        Under the new key readers see nothing, then the whole object; under the old one nothing any
        more. Raises what `put` raises, `StoreError` if there is no such object.
        """
        key, to = checked(key), checked(to)
        for each in (key, to):
            if each.offset or "/" not in each.filename:
                raise InvalidKeyError(
                    f"{each}: objects that share a file and those with plain names stay where they "
                    "are",
                    filename=each.filename,
                )
        self._own.move(self._path(key.filename), self._path(to.filename))
        return FileKey(to.filename, key.nbytes)

    def get(self, key: FileKey) -> BytesLike | None:
        """Return an object as a writable buffer of the caller's own, or None if there is none.

        An object of 1 MiB and more is a private mapping, wherever the file system can be trusted
        with one: nothing is read before it is touched, nothing copied before it is written to, and
        the file never changes. The mapping is read-only where a limit of this process forbids a
        writable one of that size (ulimit -d).

        Raises
        ------
        CorruptObjectError
            The object is not as long as it was when it was put.
        StoreClosedError
            The store is gone, and the object with it. On a network file system mounted with caches
            of names (MooseFS with `mfsentrycacheto=30`), a host may see for as many seconds only
            that the object is gone, and returns None.
        StoreError
            The file system refuses.
        """
        if self._closed or monotonic() > self.directory.touch_due:
            self._use()
        failed = 0
        if self._folder:  # most of the small, in one call
            try:
                data = read_own(key, FileKey, self._folder, files.MAP_FROM, self.directory.uid)
                if data is not None:
                    return data
            except OSError as error:
                if error.filename != f"{self.store_dir}/{key.filename}":
                    raise  # of a signal handler
                failed = error.errno or errno.EIO
        key = checked(key)
        filename, nbytes, offset = key
        path = self._path(filename)
        if offset:
            return self._shared.segments.get(key)
        if nbytes >= files.MAP_FROM and self._shared.copies is not None:
            return self._own.read(path, nbytes, self._shared.copies.mapped)
        return self._own.read(path, nbytes, failed=failed)

    def open(self, key: FileKey) -> int | None:
        """Return a descriptor to read an object from, or None if there is no object.

        The caller closes it. Raises what `get` raises.
        """
        key = checked(key)
        path = self._path(key.filename)
        if not key.offset:
            return self._own.open(path, key.nbytes)
        data = self._shared.segments.get(key)
        if data is None:
            return None
        (fd,) = map(os.memfd_create, ("fsexchange",))
        os.pwrite(fd, data, 0)
        return fd

    def get_part(self, key: FileKey, offset: int, nbytes: int) -> BytesLike | None:
        """Return `nbytes` bytes of an object from `offset` on, without reading the others.

        None if there is no object. Raises what `get` raises, `CorruptObjectError` if the object
        ends before, and `ValueError` for a negative number.

        >>> with FileConnector("/dev/shm/fsexchange-doctest") as connector:
        ...     key = connector.put(b"an object")
        ...     bytes(connector.get_part(key, 3, 6))
        b'object'
        """
        offset, nbytes = index(offset), index(nbytes)  # the sum of two of numpy's could overflow
        if offset < 0 or nbytes < 0:
            raise ValueError(f"no part of an object: {nbytes} bytes from {offset} on")
        key = checked(key)
        path = self._path(key.filename)
        if not key.offset:
            return self._own.read_part(path, offset, nbytes, sure=key.nbytes >= 0)
        data = self._shared.segments.get(key)
        if data is not None and offset + nbytes > len(data):
            raise CorruptObjectError(
                f"{key} ends after {len(data)} bytes, before byte {offset + nbytes}", path=path
            )
        return None if data is None else data[offset : offset + nbytes]

    def get_batch(self, keys: Sequence[FileKey]) -> list[Any]:
        """Return what `get` returns for each of several keys, in their order.

        Neighbours that share a file are read together.
        """
        # Any, because ProxyStore has its own type for buffers, and lists are invariant.
        found, extents = self.get_extents(keys)
        for numbers, data, starts, sizes in extents:
            ends = (starts + sizes).tolist()
            for n, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True):
                found[n] = bytearray(data[start:end])
        if any(data is None for data in found):
            self.directory.check()
        return found

    def get_extents(self, keys: Sequence[FileKey]) -> tuple[list[Any], Iterator[Extent]]:
        """Return what `get_batch` returns, with None for objects in segments, and their extents."""
        self.check_open()
        found: list[Any] = [None] * len(keys)
        own, groups = grouped(keys)
        for n, key in own:
            found[n] = self.get(key)
        return found, self._shared.segments.read_extents(groups)

    def maps(self, nbytes: int) -> bool:
        """Return whether `get` maps an object of `nbytes` bytes with its own file."""
        return nbytes >= files.MAP_FROM and self.directory.policy.mappable

    def exists(self, key: FileKey) -> bool:
        """Return whether there is an object under the key.

        Raises `StoreClosedError` if the store is gone, `StoreError` if the file system refuses.
        After another host evicts the object, it may stay True for as long as this host's mount
        caches attributes: up to 30 s by default on NFS.
        """
        key = checked(key)
        if self._is_there(self._path(key.filename), key):
            return True
        self.directory.check()
        return False

    def existing(self, keys: Iterable[FileKey]) -> list[FileKey]:
        """Return those of several keys that have an object, as `exists` says of one.

        For those of `new_key` one listing of a directory tells of all its keys. It does not tell of
        a store that is gone: `guard` does.
        """
        found: list[FileKey] = []
        folders: dict[str, dict[str, FileKey]] = {}
        for key in map(checked, keys):
            path = self._path(key.filename)
            if key.nbytes < 0:
                folder, _, name = path.rpartition("/")
                folders.setdefault(folder, {})[name] = key
            elif self._is_there(path, key):
                found.append(key)
        for folder, named in folders.items():
            found += [named[name] for name in self._own.present(folder, list(named))]
        return found

    def evict(self, key: FileKey) -> None:
        """Remove an object; no error if there is none. A process that has it mapped keeps it."""
        key = checked(key)
        path = self._path(key.filename)
        if key.offset:
            self._shared.segments.evict(key)
        else:
            self._own.remove(path, "/" not in key.filename)
            if self._shared.copies is not None:
                self._shared.copies.drop(path)

    def keep_copies(self, copies: HostCache) -> None:
        """Have `get` map copies of large objects, where it could not map their own files.

        All connectors of this process to the store do so. If they have others in use, those stay.
        """
        if self._shared.copies is None or self._shared.copies.closed:
            self._shared.copies = copies

    def tidy(self, key: FileKey) -> None:
        """Remove the directory of an object that was evicted, if nothing is left in it."""
        folder, slash, _ = checked(key).filename.partition("/")
        if slash:
            tidy(f"{self.store_dir}/{folder}")

    def evict_batch(self, keys: Sequence[FileKey]) -> None:
        """Remove several objects; no error for those that are not there."""
        self.check_open()
        own, groups = grouped(keys)
        for _, key in own:
            self.evict(key)
        self._shared.segments.evict_groups(groups)

    def new_key(self, obj: object = None) -> FileKey:
        """Return a key for an object that any process can `set` later. `obj` is ignored."""
        self._use()
        return FileKey(self._shared.writers.next_key_name())

    def set(self, key: FileKey, obj: Buffers, *, write_once: bool | None = None) -> None:
        """Put an object in place under a key; readers see none of it or all of it.

        A second `set` replaces the object; the last one wins. With `write_once` a second one is a
        `KeyExistsError`: one of the processes that race wins. None: as the connector was made.

        With `markers` there is no atomic rename. Only one process may set a key at a time, and
        while an object is replaced there is a moment without one. Readers of fsexchange still see
        whole objects only; but on sshfs the loser of a race with `write_once` may, for a second,
        read a part of the winner's object.

        Raises what `put` raises. The key may be a plain name that you choose; its object replaces
        a file of that name in the directory.
        """
        key = checked(key)
        path = self._path(key.filename)
        if key.offset:
            raise InvalidKeyError(
                f"{key}: its object shares a file with others, and cannot be set; `new_key` makes "
                "keys that can be",
                filename=key.filename,
            )
        pieces, nbytes = files.flatten(obj)
        once = self.write_once if write_once is None else write_once
        # By the stamp readers with the old length know that the object was replaced, and the owner
        # tells an object under a plain name from a user's file.
        stamp = "/" not in key.filename or key.nbytes not in (-1, nbytes)
        try:
            try:
                self._own.publish(path, pieces, nbytes, once=once, stamp=stamp)
            except StoreError as error:
                folder = key.filename.partition("/")[0]
                if not is_missing(error) or not self._shared.writers.restore(folder):
                    raise
                self._own.publish(path, pieces, nbytes, once=once, stamp=stamp)
        except FileExistsError:
            raise KeyExistsError(
                f"{key} is set already and stays as it is (write_once)", path=path
            ) from None

    def wait(self, key: FileKey, timeout: float | None = None) -> None:
        """Return once there is an object under the key.

        On file systems of one host the kernel reports it, within a millisecond. On others the
        object is looked for, after a while every 50 ms, in a way that does not hide it.

        Raises
        ------
        WaitTimeoutError
            There is none after `timeout` seconds. It says whether the makers of the key and the
            store are alive.
        MissingObjectError
            The key is from `put`, so its object was there and has been evicted for good.
        StoreClosedError
            The store is gone, or nobody may come: without a `timeout` it waits no longer than the
            owner of the store lives, unless the store is kept. Where hosts share the file system
            nobody can know, so there it warns of a silent owner, and goes on.
        """
        key = checked(key)
        path = self._path(key.filename)

        def look() -> bool:
            return self._is_there(path, key)

        guard = self.guard(timeout, look)

        def check() -> None:
            guard()
            if key.nbytes >= 0:
                raise MissingObjectError(
                    f"{key} is not in {self.store_dir}, and never will be: it was evicted, or its "
                    "key belongs to another store",
                    path=path,
                )

        if not self._own.wait(look, os.path.dirname(path), timeout, check):
            raise WaitTimeoutError(
                f"{key} in {self.store_dir} was never set, or evicted again, within {timeout:g} s; "
                + self._detector.describe(key.filename),
                path=path,
                timeout=timeout,
            )

    def guard(self, timeout: float | None, look: Callable[[], bool]) -> Callable[[], None]:
        """Return what to call now and then during a wait, which raises what `wait` raises.

        Without a `timeout` it finds out whether the owner lives. Before it says that nobody may
        come, it calls `look`, which returns whether what is waited for has come.
        """
        patient = self._detector.of_wait(look) if timeout is None else None

        def check() -> None:
            self._check()
            if patient is not None:
                patient()

        return check

    @property
    def watched(self) -> bool:
        """Whether the kernel of this host reports each object that any process sets."""
        return not self.directory.policy.network

    def sign(self, key: FileKey) -> str:
        """Return the path of the file whose appearance says that a key's object is set."""
        return self._own.sign(self.path(key))

    def path(self, key: FileKey) -> str:
        """Return the path of a key's object, even if it is not there; `InvalidKeyError`."""
        return self._path(checked(key).filename)

    def check_open(self) -> None:
        """Raise `StoreClosedError` if this connector was closed."""
        if self._closed:
            raise StoreClosedError(
                f"this connector to {self.store_dir} was closed; make another one",
                path=self.store_dir,
                errno=errno.EBADF,
            )

    def restore(self, key: FileKey) -> None:
        """Make the directory of a key again: a cleaner of old files took it before the `set`.

        In the process that made the key `set` does so. Others do not know whether a key of no
        directory is one of this store: their caller does.
        """
        self._shared.writers.make(checked(key).filename.partition("/")[0])

    # ---- what the verbs are made of --------------------------------------------------------------

    def _use(self) -> None:
        """Raise if this connector was closed; show now and then that its store is in use."""
        self.check_open()
        if self.directory.use():
            self._shared.writers.touch()

    def _path(self, filename: str) -> str:
        if self._closed or monotonic() > self.directory.touch_due:  # else no call: each get pays
            self._use()
        if "/" not in filename:
            self.directory.check()  # another store in this place may have the same plain name
        return f"{self.store_dir}/{filename}"

    def _next_name(self, tells_length: bool) -> str:
        if self._closed or monotonic() > self.directory.touch_due:
            self._use()
        return self._shared.writers.next_name(tells_length)

    def _create(self, obj: Buffers, name: str) -> FileKey:
        """Write an object to a file of its own under a name, and return its key."""
        if self._folder:  # most, in one call
            try:
                key = put_own(obj, FileKey, self._folder, name)
            except OSError as error:
                raise self.directory.error(error, "write", f"{self.store_dir}/{name}") from error
            if key is not None:
                return key
        pieces, nbytes = files.flatten(obj)
        self._own.create(f"{self.store_dir}/{name}", pieces, nbytes)
        return FileKey(name, nbytes)

    def _with_name(self, create: Callable[[str], T], *, tells_length: bool) -> T:
        """Return what `create` returns for the name of a new object."""
        try:
            return create(self._next_name(tells_length))
        except StoreError as error:
            if not self._make_new_directory(error):
                raise
            return create(self._next_name(tells_length))

    def _make_new_directory(self, error: StoreError) -> bool:
        """Return whether the error says that the directory of this process is gone.

        A cleaner of old files removes that of a process that puts seldom: another one is made.
        """
        if is_missing(error):
            self._shared.writers.renew()
            return True
        return False

    def _is_there(self, path: str, key: FileKey) -> bool:
        if key.offset:
            return self._shared.segments.exists(key)
        return self._own.is_there(path, sure=key.nbytes >= 0)

    def _check(self) -> None:
        """Raise `StoreClosedError` unless this connector is open and the store is there.

        All who wait call it now and then: they use the store.
        """
        self._use()
        self.directory.check()
