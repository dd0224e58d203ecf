"""The files that objects come from and go to."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

KINDS = ("npy", "npz", "parquet", "bytes", "pickle")

_NPY, _ZIP, _PARQUET = b"\x93NUMPY", b"PK\x03\x04", b"PAR1"
#: Bytes by which all of these are known.
LONGEST = len(_NPY)

# Bytes of a pipe that are read at once.
_STEP = 1 << 20


def kind_of(start: bytes) -> str:
    """Return what a file is by its first bytes; `npz` for any archive."""
    for magic, kind in ((_NPY, "npy"), (_PARQUET, "parquet"), (_ZIP, "npz")):
        if start.startswith(magic):
            return kind
    return "bytes"


class Input:
    """A file to put, or a pipe, of which the first bytes are read: they are `start`."""

    def __init__(self, path: str) -> None:
        self.name = "the input" if path == "-" else path
        self.path = None if path == "-" else path
        self.start = b""
        self._first = b""
        self.nbytes: int | None = None
        self.fd = -1

    def __enter__(self) -> Self:
        self.fd = 0 if self.path is None else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._look()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self.path is not None:
            os.close(self.fd)

    def _look(self) -> None:
        """Find out what it begins with, and how long it is."""
        status = os.fstat(self.fd)
        if stat.S_ISDIR(status.st_mode):
            raise click.UsageError(f"{self.name} is a directory", click.get_current_context())
        if stat.S_ISREG(status.st_mode):
            at = os.lseek(self.fd, 0, os.SEEK_CUR)
            self.nbytes = max(0, status.st_size - at)
            self._first = os.pread(self.fd, LONGEST, at)
        else:
            while len(self.start) < LONGEST:
                more = self._read(LONGEST - len(self.start))
                if not more:
                    break
                self.start += more
            self._first = self.start

    def kind(self) -> str:
        """Return what it is by its first bytes."""
        kind = kind_of(self._first)
        return "bytes" if kind == "npz" and not self._is_npz() else kind

    def check_npy(self) -> None:
        """Raise unless it begins as a `.npy` file."""
        if not self._first.startswith(_NPY):
            raise click.ClickException(
                f"{self.name} is no .npy file: it begins with {self._first!r}; "
                "--format bytes puts any file"
            )

    @contextlib.contextmanager
    def opened(self) -> Iterator[io.BufferedIOBase]:
        """Yield it as a file that can be read from any place; a pipe is read into memory."""
        if self.nbytes is None:
            pieces = [self.start]
            while more := self._read(_STEP):
                pieces.append(more)
            self.start = b"".join(pieces)
            yield io.BytesIO(self.start)
        else:
            with open(self.fd, "rb", closefd=False) as file:
                yield file

    def _read(self, nbytes: int) -> bytes:
        from fsexchange.filesystem.transfer import read  # not for --help

        return read(self.fd, nbytes)

    def _is_npz(self) -> bool:
        """Return whether all files of an archive are arrays."""
        at = os.lseek(self.fd, 0, os.SEEK_CUR) if self.nbytes is not None else 0
        try:
            with self.opened() as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                return bool(names) and all(name.endswith(".npy") for name in names)
        except Exception:  # whatever zipfile raises: of a version, a coding that it does not know
            return False
        finally:
            if self.nbytes is not None:
                os.lseek(self.fd, at, os.SEEK_SET)


def load(kind: str, source: Input) -> Any:
    """Return the object in an `npz`, `parquet` or `pickle` file."""
    with source.opened() as file:
        try:
            if kind == "npz":
                import numpy as np

                with np.load(file) as archive:
                    return dict(archive)
            if kind == "parquet":
                return _parquet().read_table(file)
            import pickle

            return pickle.load(file)
        except click.ClickException:
            raise
        except Exception as error:  # whatever the file makes these libraries raise
            raise click.ClickException(
                f"{source.name} cannot be loaded as {kind}: {type(error).__name__}: {error}; "
                "--format bytes puts any file"
            ) from error


def encode(obj: Any) -> tuple[str, list[Buffer]]:
    """Return which format an object is written in, and what its file holds."""
    from fsexchange.errors import SerializationError
    from fsexchange.store import fieldfiles

    library = type(obj).__module__.partition(".")[0]
    if library in ("pyarrow", "pandas") and type(obj).__name__ in ("Table", "DataFrame"):
        return "parquet", [_table(obj, library)]
    if type(obj) is dict and obj and _are_arrays(obj):
        return "npz", [_archive(obj)]
    try:
        pieces = fieldfiles.encode(obj)
        return kind_of(bytes(memoryview(pieces[0])[:LONGEST])), pieces
    except SerializationError as error:
        raise click.ClickException(
            f"a {type(obj).__name__} has no file format of its own: --pickle writes a pickle of "
            "any object"
        ) from error


def _are_arrays(obj: dict[Any, Any]) -> bool:
    from fsexchange.store import fieldfiles

    return all(
        isinstance(name, str) and fieldfiles.holds_all_of(array) for name, array in obj.items()
    )


def _archive(arrays: dict[str, Any]) -> Buffer:
    """Return what numpy.savez writes, which takes some names for options of its own."""
    import numpy as np

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, array, allow_pickle=False)
    return file.getbuffer()


def _table(obj: Any, library: str) -> Buffer:
    parquet = _parquet()
    import pyarrow

    table = obj if library == "pyarrow" else pyarrow.Table.from_pandas(obj)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    buffer: Buffer = memoryview(sink.getvalue())
    return buffer


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise click.ClickException(
            "tables in .parquet files need pyarrow, which is not installed here: pip install "
            "pyarrow; or `put --format bytes`, `get --pickle`"
        ) from None
    return pyarrow.parquet
