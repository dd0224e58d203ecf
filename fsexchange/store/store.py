"""Store: any Python object in, a small handle out, through files that processes share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, TypeVar

from fsexchange.connector.connector import FileConnector, is_missing
from fsexchange.connector.default import default_store
from fsexchange.connector.keys import FileKey, checked
from fsexchange.errors import (
    CorruptObjectError,
    FsExchangeError,
    InvalidKeyError,
    MissingObjectError,
    SerializationError,
    StoreError,
)
from fsexchange.serialize import alike, deserialize, serialize
from fsexchange.store import callbacks, fieldfiles
from fsexchange.store.blank import Blank
from fsexchange.store.cache import Cache
from fsexchange.store.failure import Failure
from fsexchange.store.future import Future
from fsexchange.store.names import Names, check_name
from fsexchange.store.ref import Ref

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from fsexchange.filesystem.files import Buffers, BytesLike
    from fsexchange.filesystem.transfer import Progress

T = TypeVar("T")

# Means that no default was given: None is an ordinary value.
_NO_DEFAULT: Any = object()


class Store:
    """Objects in a directory that processes share, each under a key, some under a name as well.

    A store pickles to a few hundred bytes, and unpickling it attaches to the same store. Verbs take
    an object's key, name or `Ref`. Objects are written once: what `get` returns is yours and
    writable, and changing it changes neither the stored object nor anybody else's copy.

    Parameters
    ----------
    connector:
        A `FileConnector`, or the path of a directory to make or attach to. None: the store at
        `$FSEXCHANGE_STORE`, which must be there; else a new private one in `$FSEXCHANGE_DIR`; else
        in /dev/shm, or in the directory for temporary files where that has less than 1 GiB free.
    clear:
        For a path: False keeps the objects for later processes. See `FileConnector`, also for who
        deletes.
    cache:
        Bytes of objects to keep in memory, for the next `get` of the same key; 0 keeps none.
        Mapped objects are never cached. A cached object may outlive its eviction by another
        process.

    Raises
    ------
    StoreError, UntrustedDirectoryError
        As `FileConnector`.

    Notes
    -----
    Threads may share a store; no lock is held while objects are read or written.

    >>> import numpy as np
    >>> with Store() as store:
    ...     key = store.put({"weights": np.arange(3.0), "name": "first"})
    ...     store.get(key)["weights"].sum()
    np.float64(3.0)
    """

    def __init__(
        self,
        connector: FileConnector | str | os.PathLike[str] | None = None,
        *,
        clear: bool = True,
        cache: int = 0,
    ) -> None:
        if isinstance(connector, FileConnector):
            if not clear:
                raise ValueError("clear=False is for a path; pass it to the FileConnector")
        else:
            if connector is None:
                connector = FileConnector(**default_store(clear=clear), clear=clear)
            else:
                connector = FileConnector(connector, clear=clear)
        self.connector = connector
        self._cache = Cache(cache) if cache else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.connector!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        size = self._cache.limit if self._cache else 0
        kind = type(self.connector)
        own = () if kind is FileConnector else (kind,)
        return _attach, (type(self), self.connector.config(), size, *own)

    def close(self) -> None:
        """Stop using this store; the owner's process removes it with all its objects.

        Callbacks of futures that are set by now are called first.
        """
        callbacks.flush(self.store_id)
        self.connector.close()

    def put(
        self, obj: Any, *, name: str | None = None, replace: bool = False, checksum: bool = False
    ) -> FileKey:
        """Write one object and return its key.

        Parameters
        ----------
        name:
            Give the object this name, too; an object that had the name before loses it.
        replace:
            Evict the object that had the name before, once the new one has it. `get` by the name
            finds one of the two at any time; who holds the old key finds nothing. If several
            processes replace at the same time, the last one has the name, and objects of the others
            may stay without one.
        checksum:
            Guard the elements of arrays by a CRC-32, too: 0.15 seconds for 1 GiB, and as many for
            each `get`; about a second where there is no wheel of isal.

        Raises
        ------
        SerializationError
            The object cannot be pickled.
        StoreError
            The file system refuses; nothing is left of the object, and an old one stays. If it is
            the old one that cannot be removed, the new one has the name all the same.
        """
        if name is None:
            if replace:
                raise ValueError("replace=True replaces the object of a name; pass name=, too")
            # Without a named argument, which takes 0.3 us.
            pieces = serialize(obj, checksum=True) if checksum else serialize(obj)
            return self.connector.put(pieces, tells_length=True)
        check_name(name)
        put = partial(self.connector.put, serialize(obj, checksum=checksum), tells_length=True)
        return self._put_named(put, name, replace=replace)

    def put_file(
        self,
        file: str | os.PathLike[str] | int,
        *,
        name: str | None = None,
        replace: bool = False,
        as_bytes: bool = False,
        start: bytes = b"",
        progress: Progress = None,
    ) -> FileKey:
        """Put the array of a `.npy` file, or the bytes of any other, and return its key.

        The file is not read into memory: on Btrfs, XFS and the like the store shares the blocks of
        a `.npy` file on the same file system, else the kernel copies.

        Parameters
        ----------
        file:
            A path, or a descriptor to read from, such as that of a pipe. A `.npy` file is known by
            its first bytes.
        name, replace:
            As for `put`.
        as_bytes:
            Put a `.npy` file as bytes, too.
        start:
            What was read of a pipe before.
        progress:
            Called now and then with the number of bytes copied since.

        Raises
        ------
        CorruptObjectError, SerializationError
            The `.npy` file is damaged, or holds Python objects.
        OSError
            The file cannot be read.
        StoreError
            As for `put`.

        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.NamedTemporaryFile(suffix=".npy") as file, Store() as store:
        ...     np.save(file, np.arange(6).reshape(2, 3))
        ...     file.flush()
        ...     store.get(store.put_file(file.name)).shape
        (2, 3)
        """
        if name is None and replace:
            raise ValueError("replace=True replaces the object of a name; pass name=, too")
        put = partial(
            fieldfiles.put,
            self.connector,
            file,
            as_bytes=as_bytes,
            start=start,
            progress=progress,
        )
        if name is None:
            return put()
        check_name(name)
        return self._put_named(put, name, replace=replace)

    def get_file(
        self,
        key: FileKey | str | Ref[Any],
        file: str | os.PathLike[str] | int,
        *,
        encode: Callable[[Any], Buffers] = fieldfiles.encode,
        progress: Progress = None,
    ) -> None:
        """Write an object to a file: an array as `.npy`, bytes as they are, a str as UTF-8.

        `file` is a path, at which the whole file appears at the end, or a descriptor. Arrays, long
        bytes and long text are not read into memory; a file that `put_file` put from `.npy` shares
        its blocks again where that can be.

        Parameters
        ----------
        encode:
            Returns what is to be written of an object that does not lie in the store so: of any
            pickled one. `pickle.dumps` takes all of them.
        progress:
            As for `put_file`.

        Raises
        ------
        MissingObjectError, CorruptObjectError, StoreClosedError, StoreError
            As for `get`.
        SerializationError
            The object is of another type.
        OSError
            The file cannot be written.
        """
        found = self._find(key)
        source = None if found is None else self.connector.open(found)
        while source is None:
            again = self._find(key) if isinstance(key, str) else found
            if again == found:
                raise self._missing(key, found)
            found = again  # as in `get`
            source = None if found is None else self.connector.open(found)
        assert found is not None
        try:
            fieldfiles.get(source, file, partial(self.get, found), encode, progress)
        finally:
            os.close(source)

    def _put_named(self, put: Callable[[], FileKey], name: str, *, replace: bool) -> FileKey:
        """Name what `put` puts, or evict it if that fails; see `put`."""
        key = old = None
        try:
            (key,) = starmap(put, ((),))  # with no moment between
            old = self._to_evict(name) if replace else None
            self.names[name] = key
            self._remove_replaced(old, key)
        except BaseException:
            # Ctrl-C may come when the new object has the name already.
            if key is not None:
                named = False
                with contextlib.suppress(FsExchangeError):
                    named = self._find(name) == key
                with contextlib.suppress(FsExchangeError):
                    if named:
                        self._remove_replaced(old, key)
                    else:
                        self.connector.evict(key)
            raise
        return key

    def _remove_replaced(self, old: FileKey | None, key: FileKey) -> None:
        if old is not None and old != key:
            self.evict(old)
            self.connector.tidy(old)

    def put_batch(self, objs: Iterable[Any]) -> list[FileKey]:
        """Write several objects and return their keys in order; all objects are written, or none.

        Objects under 64 KiB share one file, but each can be evicted alone.
        """
        objs = list(objs)
        head = alike.common_head(objs)
        if head is None:
            return self.connector.put_batch([serialize(obj) for obj in objs], tells_length=True)
        return self.connector.put_alike(head, objs, len(head) + objs[0].nbytes)

    def get(self, key: FileKey | str | Ref[Any], default: Any = _NO_DEFAULT) -> Any:
        """Return an object; its arrays are views of a private mapping, or of memory of their own.

        Raises
        ------
        MissingObjectError
            The object was evicted or never set, or nothing has this name, and no `default` is
            given.
        CorruptObjectError, SerializationError
            See `deserialize`.
        StoreClosedError
            The store is gone, and the object with it.

        >>> with Store() as store:
        ...     key = store.put(None, name="nothing/at all")
        ...     store.get("nothing/at all"), store.get("something", default="else")
        (None, 'else')
        """
        found = key if type(key) is FileKey else self._find(key)  # else no call: each get pays
        read = self._read if self._cache else self.connector.get
        data = None if found is None else read(found)
        while data is None:
            again = self._find(key) if isinstance(key, str) else found
            if again == found:
                if default is _NO_DEFAULT:
                    raise self._missing(key, found)
                return default
            # Meanwhile the name was given to another object, and the old one was evicted.
            found = again
            data = None if found is None else read(found)
        return self._load(data, found)

    def _read(self, key: FileKey) -> BytesLike | None:
        cache = self._cache
        assert cache is not None
        self.connector.check_open()
        key = checked(key)
        data: BytesLike | None = cache.get(key)
        if data is None:
            data = self.connector.get(key)
            if data is not None and not self.connector.maps(len(data)):
                cache.put(key, data)
        return data

    def get_batch(
        self, keys: Sequence[FileKey | str | Ref[Any]], default: Any = _NO_DEFAULT
    ) -> list[Any]:
        """Return several objects, each as `get` does, in the order of their keys."""
        if self._cache:
            return [self.get(key, default) for key in keys]
        meant = [key if type(key) is FileKey else self._find(key) for key in keys]
        there = [n for n, key in enumerate(meant) if key is not None]
        found, extents = self.connector.get_extents([key for key in meant if key is not None])
        batch = [_NO_DEFAULT] * len(keys)
        for n, data in zip(there, found, strict=True):
            if data is not None:
                batch[n] = self._load(data, meant[n])
        for numbers, memory, starts, sizes in extents:
            objs = alike.copies(memory, starts, sizes)
            if objs is None:
                ends = (starts + sizes).tolist()
                pairs = zip(starts.tolist(), ends, strict=True)
                which = [meant[there[n]] for n in numbers.tolist()]
                objs = [
                    self._load(bytearray(memory[start:end]), key)
                    for key, (start, end) in zip(which, pairs, strict=True)
                ]
            for n, obj in zip(numbers.tolist(), objs, strict=True):
                batch[there[n]] = obj
        for n, obj in enumerate(batch):
            if obj is _NO_DEFAULT:
                batch[n] = self.get(keys[n], default)
        return batch

    def exists(self, key: FileKey | str | Ref[Any]) -> bool:
        """Return whether there is an object under this key or name."""
        found = self._find(key)
        return found is not None and self.connector.exists(found)

    def evict(self, key: FileKey | str | Ref[Any]) -> None:
        """Remove an object, and its name if `key` is a name; no error if there is none.

        Processes that have its arrays mapped keep them. Do not give the name to another object at
        the same time.
        """
        found = self._to_evict(key)
        if found is not None:
            self.connector.evict(found)
            if self._cache:
                self._cache.discard(checked(found))
        if isinstance(key, str) and self._to_evict(key) == found:
            with contextlib.suppress(MissingObjectError):
                del self.names[key]

    def evict_batch(self, keys: Sequence[FileKey | str | Ref[Any]]) -> None:
        """Remove several objects, each as `evict` does; objects of one `put_batch` go together."""
        keys = list(keys)
        found = [self._to_evict(key) for key in keys]
        meant = [key for key in found if key is not None]
        self.connector.evict_batch(meant)
        if self._cache:
            for each in meant:
                self._cache.discard(checked(each))
        for name in keys:
            if isinstance(name, str):
                self.evict(name)

    def wait(self, key: FileKey | str | Ref[Any], timeout: float | None = None) -> None:
        """Wait until there is an object under this key or name.

        `WaitTimeoutError` after `timeout` seconds; None waits as long as the owner of the store
        lives. See `FileConnector.wait` for the other errors, and for how soon it returns.
        """
        start = time.monotonic()
        if isinstance(key, str):
            self.names.wait(key, timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - start))
        found = self._find(key)
        if found is None:
            raise self._missing(key, found)
        self.connector.wait(found, timeout)

    def ref(self, obj: T) -> Ref[T]:
        """Put an object and return a handle on it, to pass to other processes.

        >>> with Store() as store:
        ...     ref = store.ref([1, 2, 3])
        ...     ref.get()
        [1, 2, 3]
        """
        return Ref(self, self.put(obj))

    def future(self) -> Future[Any]:
        """Return a handle on an object that any process can set, once, and many can wait for."""
        return Future(self, self.connector.new_key())

    def blank(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float) -> Blank:
        """Return an array that processes fill, each a part of it; see `Blank`.

        The room for it is reserved, where the file system can do that: a disk that is too full for
        it is an error here, not later in a process that fills it.

        >>> with Store() as store:
        ...     blank = store.blank((2, 3))
        ...     blank[1] = 7.5
        ...     blank.seal().get().sum()
        np.float64(22.5)
        """
        return Blank.make(self, shape, dtype)

    @property
    def store_dir(self) -> str:
        """The directory of this store."""
        return self.connector.store_dir

    @property
    def store_id(self) -> str:
        """The identity of this store, the same for all processes that attach to it."""
        return self.connector.store_id

    @property
    def names(self) -> Names:
        """Names for people and later processes: a mutable mapping from name to key."""
        return Names(self.connector)

    def _set_once(self, key: FileKey, obj: Any) -> None:
        """Set the result or the `Failure` of a future; `KeyExistsError` if it has one."""
        pieces = serialize(obj)
        try:
            self.connector.set(key, pieces, write_once=True)
        except StoreError as error:
            if not is_missing(error):
                raise
            self.connector.restore(key)
            self.connector.set(key, pieces, write_once=True)

    def _failure(self, key: FileKey) -> Failure | None:
        """Return the `Failure` that a future was set to, without raising it; None for a result."""
        data = self.connector.get(key)
        if data is None:
            raise self._missing(key, key)
        obj = deserialize(data)
        return obj if type(obj) is Failure else None

    def _find(self, key: FileKey | str | Ref[Any]) -> FileKey | None:
        """Return the key of an object, or None if nothing has this name."""
        if isinstance(key, str):
            return self.names.get(key)
        if isinstance(key, Ref):
            if key.store.store_id != self.connector.store_id:
                raise InvalidKeyError(f"{key} is of another store than {self}", filename=None)
            return key.key
        return key

    def _to_evict(self, key: FileKey | str | Ref[Any]) -> FileKey | None:
        """Return what `_find` does; None for a damaged name, too: that can go, or be replaced."""
        try:
            return self._find(key)
        except CorruptObjectError:
            return None

    def _load(self, data: BytesLike, key: FileKey | None) -> Any:
        try:
            obj = deserialize(data)
        except (CorruptObjectError, SerializationError) as error:
            error.key = str(key)
            error.args = (f"{key} in the store at {self.connector.store_dir}: {error}",)
            raise
        if type(obj) is Failure:
            raise obj.exception()
        return obj

    def _missing(self, key: FileKey | str | Ref[Any], found: FileKey | None) -> MissingObjectError:
        path = self.connector.store_dir
        if found is None:
            return MissingObjectError(f"nothing is named {key!r} in the store at {path}", path=path)
        named = f", named {key!r}," if isinstance(key, str) else ""
        return MissingObjectError(
            f"{found}{named} is not in the store at {path}: it was evicted or never set", path=path
        )


def _attach(
    kind: type[Store],
    config: dict[str, Any],
    cache: int,
    connector: type[FileConnector] = FileConnector,
) -> Store:
    return kind(connector.from_config(config), cache=cache)
