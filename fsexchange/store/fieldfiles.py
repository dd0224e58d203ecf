"""The files of a user that objects come from and go to: `.npy`, bytes, text."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.errors import CorruptObjectError, FsExchangeError, SerializationError
from fsexchange.filesystem.files import flatten
from fsexchange.filesystem.transfer import copy, read, replacing, write
from fsexchange.serialize.arrays import array_bytes
from fsexchange.serialize.description import ENOUGH, describe
from fsexchange.serialize.format import BYTES, plain_head
from fsexchange.serialize.npy import NPY_HEAD, NPY_MAGIC, check_npy, npy_header

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.filesystem.files import Buffers
    from fsexchange.filesystem.transfer import Progress

#: A path, or a descriptor.
File: TypeAlias = "str | os.PathLike[str] | int"


def put(
    connector: FileConnector,
    file: File,
    *,
    as_bytes: bool = False,
    start: bytes = b"",
    progress: Progress = None,
) -> FileKey:
    """Put what a file holds; see `Store.put_file`."""
    key = None
    try:
        with _opened(file) as source:
            regular = stat.S_ISREG(os.fstat(source).st_mode)
            if regular:
                npy = _peek(source, len(NPY_MAGIC)) == NPY_MAGIC and not as_bytes
                if npy:
                    _check(source, file)
            else:
                start += _read(source, len(NPY_MAGIC) - len(start))
                npy = start.startswith(NPY_MAGIC) and not as_bytes

            def head(nbytes: int) -> bytes:
                return start if npy else plain_head(BYTES, len(start) + nbytes) + start

            (key,) = map(connector.put_file, (source,), (head,), (progress,))
            if npy and not regular:  # only now its length is known
                _check_object(connector, key, file)
        return key
    except BaseException:
        if key is not None:
            with contextlib.suppress(FsExchangeError):
                connector.evict(key)
        raise


def get(
    source: int,
    file: File,
    load: Callable[[], Any],
    encode: Callable[[Any], Buffers],
    progress: Progress,
) -> None:
    """Write the object in the open file `source` to a file; see `Store.get_file`.

    One that is not written as it lies there is what `load` returns, written as `encode` says.
    """
    told = describe(os.pread(source, ENOUGH, 0), os.fstat(source).st_size)
    as_it_lies = told.type not in ("pickle", "unknown") and told.whole and told.guarded != "all"
    pieces: Sequence[Buffer] = ()
    if not as_it_lies:
        pieces, _ = flatten(encode(load()))  # which proves the CRC, or says what is wrong
    elif told.type in ("ndarray", "memoryview"):
        pieces = [npy_header(np.dtype(told.dtype), told.shape or (), fortran=told.order == "F")]
    with contextlib.ExitStack() as stack:
        target = file if isinstance(file, int) else stack.enter_context(replacing(os.fspath(file)))
        write(target, pieces, progress)
        if as_it_lies:
            os.lseek(source, 0 if told.type == "npy" else told.start, os.SEEK_SET)
            copy(source, target, progress)


def encode(obj: Any) -> list[Buffer]:
    """Return what a file of an object holds: of an array, bytes or text."""
    if isinstance(obj, str):
        return [obj.encode("utf-8", "surrogatepass")]
    if isinstance(obj, (bytes, bytearray)):
        return [obj]
    if isinstance(obj, memoryview):
        obj = np.asarray(obj)
    if holds_all_of(obj):
        order, data = array_bytes(obj)
        return [npy_header(obj.dtype, obj.shape, fortran=order == "F"), data]
    raise SerializationError(
        f"the object is a {type(obj).__name__}: only bytes, text, and arrays without masks, units "
        "or Python objects are written to files"
    )


def holds_all_of(obj: Any) -> bool:
    """Return whether a `.npy` file holds all of an object: an array without a mask, or units.

    Other classes than numpy's own may add anything.
    """
    return (
        isinstance(obj, np.ndarray)
        and not isinstance(obj, np.ma.MaskedArray)
        and type(obj).__module__.partition(".")[0] == "numpy"
        and not obj.dtype.hasobject
    )


def _check(fd: int, file: File) -> None:
    """Raise unless there is a whole `.npy` file from the current position of an open file on."""
    start = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        check_npy(_peek(fd, NPY_HEAD), os.fstat(fd).st_size - start)
    except (CorruptObjectError, SerializationError) as error:
        shown = "the input" if isinstance(file, int) else os.fspath(file)
        raise type(error)(f"cannot put {shown} as an array: {error}") from None


def _check_object(connector: FileConnector, key: FileKey, file: File) -> None:
    there = connector.open(key)
    if there is not None:
        try:
            _check(there, file)
        finally:
            os.close(there)


def _peek(fd: int, nbytes: int) -> bytes:
    return os.pread(fd, nbytes, os.lseek(fd, 0, os.SEEK_CUR))


def _read(fd: int, nbytes: int) -> bytes:
    """Return the next `nbytes` bytes of an open file, fewer at its end."""
    data = b""
    while len(data) < nbytes:
        more = read(fd, nbytes - len(data))
        if not more:
            break
        data += more
    return data


@contextlib.contextmanager
def _opened(file: File) -> Iterator[int]:
    """Open a file to read from, if it is not open."""
    if isinstance(file, int):
        yield file
        return
    (fd,) = map(os.open, (file,), (os.O_RDONLY | os.O_CLOEXEC,))
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(file))
        yield fd
    finally:
        os.close(fd)
