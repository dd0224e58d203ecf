"""Ref: a small handle on one object, to be passed where the object itself is too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from fsexchange.connector.keys import FileKey

if TYPE_CHECKING:
    from fsexchange.store.store import Store

T = TypeVar("T")

_NOT_LOADED: Any = object()


class Ref(Generic[T]):
    """A handle on an object in a store; `get` is where the object is read.

    Made by `Store.ref` and `Future.ref`. It pickles to a few hundred bytes, is hashable, and equal
    to another of the same object. Nothing is deleted with it: evict the object, or close the store.

    Notes
    -----
    The object is loaded once per process for as long as this Ref lives: every `get` returns the
    same one. Threads that race for the first load all get the one that is kept.

    >>> from fsexchange import Store
    >>> import pickle
    >>> with Store() as store:
    ...     ref = store.ref("a large object")
    ...     copy = pickle.loads(pickle.dumps(ref))  # as in another process
    ...     copy.get(), copy == ref
    ('a large object', True)
    """

    __slots__ = ("__weakref__", "_loaded", "key", "store")

    def __init__(self, store: Store, key: FileKey) -> None:
        self.store = store
        self.key = key
        self._loaded: dict[str, Any] = {}

    def get(self) -> T:
        """Return the object.

        Raises `MissingObjectError` if it was evicted, and what a `Future` was set to raise; see
        `Store.get` for more.
        """
        loaded = self._loaded.get("object", _NOT_LOADED)
        if loaded is _NOT_LOADED:
            loaded = self._loaded.setdefault("object", self.store.get(self.key))
        return cast(T, loaded)

    @property
    def loaded(self) -> bool:
        """Whether `get` returns what it returned before, without reading anything."""
        return bool(self._loaded)

    def evict(self) -> None:
        """Remove the object from the store, for everyone; what is loaded stays good."""
        self.store.evict(self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key} in {self.store.connector.store_dir})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.key)

    def _identity(self) -> tuple[str, str, int]:
        return self.store.connector.store_id, self.key.filename, self.key.offset
