"""Blank: an array that many processes fill, each a part of it, and that is then an object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fsexchange.connector.connector import is_missing
from fsexchange.errors import KeyExistsError, MissingObjectError, StoreError
from fsexchange.serialize.npy import check_dtype, check_numbers, npy_header
from fsexchange.serialize.runs import Part
from fsexchange.store.ref import Ref

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.connector.keys import FileKey
    from fsexchange.store.store import Store

    Array = npt.NDArray[Any]


class Blank:
    """An array to be filled by any number of processes, each a part of it.

    Made by `Store.blank`; pickles to a few hundred bytes. `blank[10:20] = part` writes to the file
    of the array, from any process and host that sees the store. `seal` then makes it an object as
    any other, and returns its `Ref`. Elements that nobody has written are zero.

    Notes
    -----
    A part is given by integers, slices and `...`; its values are cast and broadcast as numpy does
    it. Processes and threads may write at the same time, if their parts do not overlap. Nothing is
    mapped, so this is as right on network file systems. Each run of neighbouring elements is a
    system call: rows cost less than columns.

    Until the array is sealed, who reads it (`blank[0]`, `blank += 1`, `np.asarray(blank)`) gets a
    `MissingObjectError`. From then on these read it, and who writes gets a `KeyExistsError`, also
    one whose write was under way (on another host, once that host sees the seal). So the process
    that seals should know that all parts are written, as it does when it has the results of the
    tasks that write them. What a killed task was to write, another one can write again.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     blank = store.blank((3, 2), "i4")
    ...     blank[0] = 1  # usually each in another process
    ...     blank[1:, 1] = [2, 3]
    ...     blank.seal().get()
    array([[1, 1],
           [0, 2],
           [0, 3]], dtype=int32)
    """

    __slots__ = ("_open", "_sealed", "_start", "dtype", "shape", "store")

    def __init__(
        self,
        store: Store,
        open_key: FileKey,
        sealed_key: FileKey,
        start: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.store = store
        self.shape = shape
        self.dtype = dtype
        # The file has one name while it is filled and another one from then on. So who looks for
        # the other one finds a whole array or none, and who has only the first can write no more.
        self._open = open_key
        self._sealed: Ref[Array] = Ref(store, sealed_key)
        self._start = start

    @classmethod
    def make(cls, store: Store, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Blank:
        """Return a new one; see `Store.blank`."""
        like = np.broadcast_to(np.empty((), dtype), shape)  # as numpy reads shape and dtype
        check_dtype(like.dtype, "blank", "use another dtype")
        header = npy_header(like.dtype, like.shape)
        connector = store.connector
        key = connector.new_key()
        made = connector.reserve(header, len(header) + like.nbytes)
        return cls(store, made, key, len(header), like.shape, like.dtype)

    def __setitem__(self, index: Any, values: npt.ArrayLike) -> None:
        """Write a part of the array.

        Raises
        ------
        KeyExistsError
            The array is sealed.
        MissingObjectError
            It was evicted.
        StoreError, StoreClosedError
            As `Store.put`.
        """
        part = Part.of(self.shape, self.dtype.itemsize, index)
        check_numbers(values, "part")
        if not isinstance(values, (np.ndarray, np.generic)):
            values = np.asarray(values, self.dtype)
        array = np.asarray(values)
        while array.ndim > len(part.shape) and len(array) == 1:  # as numpy assigns
            array = array[0]
        runs = part.runs(np.broadcast_to(array, part.shape), self.dtype)
        connector = self.store.connector
        try:
            connector.fill(self._open, ((self._start + at, data) for at, data in runs))
        except StoreError as error:
            if not is_missing(error):
                raise
            raise self._too_late() from None
        if not connector.exists(self._open):  # it was sealed or evicted meanwhile
            raise self._too_late()

    def seal(self) -> Ref[Array]:
        """Make the array an object that can be read, and not written; return its `Ref`.

        To be called once all parts are written, by any process. Sealing again does nothing.
        """
        connector, key = self.store.connector, self._sealed.key
        try:
            connector.move(self._open, key)
        except StoreError as error:
            if not is_missing(error):
                raise
            if not connector.exists(key):
                raise self._gone() from None
        return Ref(self.store, key._replace(nbytes=self._open.nbytes))

    def evict(self) -> None:
        """Remove the array, sealed or not; no error if there is none."""
        self.store.evict(self._open)
        self._sealed.evict()

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        try:
            return self._sealed.__array__(dtype, copy)
        except MissingObjectError:
            if self.store.connector.exists(self._open):
                raise MissingObjectError(
                    f"{self} is not sealed, so it cannot be read: call its `seal` when all its "
                    "parts are written",
                    path=self.store.connector.path(self._open),
                ) from None
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape}, {self.dtype}, in {self.store.store_dir})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            *(self.store, self._open, self._sealed.key, self._start),
            *(self.shape, self.dtype),
        )

    def _too_late(self) -> KeyExistsError | MissingObjectError:
        """Return the error of who writes when there is nothing to be written any more."""
        if not self.store.exists(self._sealed.key):
            return self._gone()
        return KeyExistsError(
            f"{self} is sealed, so it cannot be written any more: seal it when the last of its "
            "writers is done",
            path=self.store.connector.path(self._sealed.key),
        )

    def _gone(self) -> MissingObjectError:
        path = self.store.connector.path(self._open)
        return MissingObjectError(f"{self} was evicted", path=path)
