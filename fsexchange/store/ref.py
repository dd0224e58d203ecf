"""Ref: a small handle on one object, to be passed in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.connector.keys import FileKey
    from fsexchange.store.failure import Failure

T = TypeVar("T")

_NOT_LOADED: Any = object()


class HandleStore(Protocol):
    """The part of a `Store` that its handles need."""

    @property
    def store_dir(self) -> str: ...

    @property
    def store_id(self) -> str: ...

    def get(self, key: FileKey, /) -> Any: ...

    def exists(self, key: FileKey, /) -> bool: ...

    def evict(self, key: FileKey, /) -> None: ...

    def wait(self, key: FileKey, /, timeout: float | None = None) -> None: ...

    def _set_once(self, key: FileKey, obj: Any, /) -> None: ...

    def _failure(self, key: FileKey, /) -> Failure | None: ...


class Ref(Generic[T]):
    """A handle on an object in a store; `get` reads the object.

    Made by `Store.ref` and `Future.ref`. It pickles to a few hundred bytes, is hashable, and equals
    any other Ref of the same object. numpy takes a Ref of an array for that array. Deleting a Ref
    does not delete the object: evict it, or close the store.

    Notes
    -----
    The object is loaded once per process for as long as this Ref lives: every `get` returns the
    same object. Threads that race for the first load all get the one that is kept.

    >>> from fsexchange import Store
    >>> import pickle
    >>> with Store() as store:
    ...     ref = store.ref("a large object")
    ...     copy = pickle.loads(pickle.dumps(ref))  # as in another process
    ...     copy.get(), copy == ref
    ('a large object', True)
    """

    __slots__ = ("__weakref__", "_loaded", "key", "store")

    def __init__(self, store: HandleStore, key: FileKey) -> None:
        # A Store, whose module imports this one; all of its verbs are for users.
        self.store: Any = store
        self.key = key
        self._loaded: dict[str, Any] = {}

    def get(self) -> T:
        """Return the object.

        Raises `MissingObjectError` if it was evicted, and the exception that a `Future` was set
        to; see `Store.get` for more.
        """
        loaded = self._loaded.get("object", _NOT_LOADED)
        if loaded is _NOT_LOADED:
            loaded = self._loaded.setdefault("object", self.store.get(self.key))
        return cast(T, loaded)

    @property
    def loaded(self) -> bool:
        """Whether the object was read before, so that `get` reads nothing."""
        return bool(self._loaded)

    def evict(self) -> None:
        """Remove the object from the store, for everyone; a loaded object stays valid."""
        self.store.evict(self.key)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return the object as an array, so that `np.asarray(ref)` is `np.asarray(ref.get())`.

        `np.array` of a list of Refs reads them all, with `dtype=object` as well. To have an array
        of Refs make it empty, and assign them to its elements.
        """
        if copy is None:
            return np.asanyarray(self.get(), dtype)
        return np.array(self.get(), dtype, copy=copy, subok=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key} in {self.store.store_dir})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self.key.filename)  # random, and its hash is kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.key)

    def _identity(self) -> tuple[str, str, int]:
        return self.store.store_id, self.key.filename, self.key.offset
