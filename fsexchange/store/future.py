"""Future: an object to come, set once by any process and waited for by many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fsexchange.connector.keys import FileKey
from fsexchange.errors import MissingObjectError
from fsexchange.serialize import deserialize, serialize
from fsexchange.store.failure import Failure
from fsexchange.store.ref import Ref

if TYPE_CHECKING:
    from fsexchange.store.store import Store

T = TypeVar("T")


class Future(Generic[T]):
    """A handle on an object that any process can set, once, with a result or an exception.

    Made by `Store.future`; pickles to a few hundred bytes. What is set stays until it is evicted
    (`future.ref.evict()`) or the store is closed.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     future = store.future()
    ...     future.done()
    ...     future.set_result([1, 2, 3])  # usually in another process
    ...     future.result(timeout=10)
    False
    [1, 2, 3]
    """

    __slots__ = ("ref",)

    def __init__(self, store: Store, key: FileKey) -> None:
        self.ref: Ref[T] = Ref(store, key)

    def set_result(self, result: T) -> None:
        """Set the result; `KeyExistsError` if there is one or an exception already.

        Of processes that race one wins, and all others get the error. Raises what `Store.put` does
        as well, and can then be tried again.
        """
        self._set(result)

    def set_exception(self, error: BaseException) -> None:
        """Have `result` raise this exception, with its traceback as text; once, as a result."""
        self._set(Failure(error))

    def _set(self, obj: Any) -> None:
        self.ref.store.connector.set(self.ref.key, serialize(obj), write_once=True)

    def done(self) -> bool:
        """Tell whether a result or an exception is set; does not wait."""
        return self.ref.store.exists(self.ref.key)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it, or raise the exception that was set.

        Raises
        ------
        WaitTimeoutError
            Nothing was set within `timeout` seconds (None: wait for ever). It tells whether the
            process that made the future and the store's owner are alive.
        StoreClosedError
            The store is gone, so nothing will be set any more.
        """
        if not self.ref.loaded:
            self.ref.store.wait(self.ref.key, timeout)
        return self.ref.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return the exception that was set, or None for a result."""
        store = self.ref.store
        store.wait(self.ref.key, timeout)
        data = store.connector.get(self.ref.key)
        if data is None:
            raise MissingObjectError(f"what was set of {self!r} was evicted")
        obj = deserialize(data)
        return obj.exception() if type(obj) is Failure else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ref.key} in {self.ref.store.connector.store_dir})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Future) and self.ref == other.ref

    def __hash__(self) -> int:
        return hash(self.ref)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ref.store, self.ref.key)
