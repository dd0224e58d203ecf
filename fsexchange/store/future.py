"""Future: a handle on an object that is set later, once, and that many processes can wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fsexchange.store import callbacks
from fsexchange.store.failure import Failure
from fsexchange.store.ref import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsexchange.connector.keys import FileKey
    from fsexchange.store.ref import HandleStore

T = TypeVar("T")


class Future(Generic[T]):
    """A handle on an object that any process can set, once, with a result or an exception.

    Made by `Store.future`; pickles to a few hundred bytes. The result stays until it is evicted
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

    def __init__(self, store: HandleStore, key: FileKey) -> None:
        self.ref: Ref[T] = Ref(store, key)

    def set_result(self, result: T) -> None:
        """Set the result; `KeyExistsError` if a result or an exception is set already.

        If processes race, one wins and all others get the error. It also raises the errors of
        `Store.put`; after one of those it can be called again.
        """
        self.ref.store._set_once(self.ref.key, result)

    def set_exception(self, error: BaseException) -> None:
        """Make `result` raise this exception, with its traceback as text; see `set_result`."""
        self.ref.store._set_once(self.ref.key, Failure(error))

    def done(self) -> bool:
        """Return whether a result or an exception is set, without waiting."""
        return self.ref.loaded or bool(self.ref.store.exists(self.ref.key))

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Have `callback` called with this future once it is set, in this process.

        At once, in this thread, if it is set; else in a thread that all callbacks share, so keep it
        short. It is also called when nothing can be set any more: then `result` raises
        `StoreClosedError`. Errors that it raises are logged. A forked child has no callbacks.
        """
        if self.done():
            callbacks.call(self, callback)
        else:
            callbacks.add(self, callback)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it, or raise the exception that was set.

        Raises
        ------
        WaitTimeoutError
            Nothing was set within `timeout` seconds. The message says whether the process that made
            the future and the owner of the store are alive.
        StoreClosedError
            The store is gone, so nothing will be set any more. Without a `timeout` also: its owner
            was killed, see `FileConnector.wait`.
        """
        if not self.ref.loaded:
            self.ref.store.wait(self.ref.key, timeout)
        return self.ref.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return the exception that was set, or None for a result."""
        if self.ref.loaded:
            return None  # it may have been evicted since
        store = self.ref.store
        store.wait(self.ref.key, timeout)
        failure = store._failure(self.ref.key)
        return None if failure is None else failure.exception()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ref.key} in {self.ref.store.store_dir})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Future) and self.ref == other.ref

    def __hash__(self) -> int:
        return hash(self.ref)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ref.store, self.ref.key)
