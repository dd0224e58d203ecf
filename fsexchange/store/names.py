"""Names for people: "mesh/coarse" instead of a key, for scripts that start hours apart."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

from fsexchange.connector.keys import FileKey, checked
from fsexchange.errors import (
    CorruptObjectError,
    FsExchangeError,
    InvalidKeyError,
    MissingObjectError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector

# NAME_MAX (limits.h) is 255 on the file systems in use; the ending of a marker needs some of it.
_LONGEST = 230


class Names(MutableMapping[str, FileKey]):
    """The names in a store, each for one key; `store.names`.

    A name can be given to another key. This replaces the old key at once: readers find one of the
    two. The object of the old key stays until it is evicted. Names last as long as the store.

    A name is any printable text that is not all spaces, else `InvalidKeyError`. It has at most 230
    bytes when characters other than letters, digits and `_-~` are written as %XX. On a network file
    system other hosts may find the old key for some seconds more: as long as their mounts cache.
    With `markers` there is a moment without the name while its key is replaced.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     key = store.put([1, 2, 3], name="mesh/coarse")
    ...     sorted(store.names), store.names["mesh/coarse"] == key
    (['mesh/coarse'], True)
    """

    def __init__(self, connector: FileConnector) -> None:
        self._labels = connector.labels
        self._where = connector.store_dir

    def __getitem__(self, name: str) -> FileKey:
        text = self._labels.get(check_name(name))
        if text is None:
            raise self._missing(name)
        try:
            return FileKey.parse(text.decode())
        except ValueError:  # files are not synced: a host that loses its power leaves empty ones
            raise CorruptObjectError(
                f"the name {name!r} is damaged in the store at {self._where}: its file has no key; "
                "evict it, or put the object again",
                path=self._labels.path(check_name(name)),
            ) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._labels.get(check_name(name)) is not None

    def __setitem__(self, name: str, key: FileKey) -> None:
        self._labels.set(check_name(name), str(checked(key)).encode())

    def __delitem__(self, name: str) -> None:
        if not self._labels.remove(check_name(name)):
            raise self._missing(name)

    def __iter__(self) -> Iterator[str]:
        from urllib.parse import unquote  # 3 ms, and rarely needed

        return map(unquote, self._labels.names())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        try:
            count = f", {len(self)} names"
        except FsExchangeError:  # a closed store's: whoever looks for an error prints it, too
            count = ""
        return f"{type(self).__name__}({self._where!r}{count})"

    def wait(self, name: str, timeout: float | None = None) -> None:
        """Return once there is such a name; `WaitTimeoutError` after `timeout` seconds.

        `StoreClosedError` as `FileConnector.wait`.
        """
        label = check_name(name)
        if not self._labels.wait(label, timeout):
            raise WaitTimeoutError(
                f"nothing was named {name!r} in the store at {self._where} within {timeout:g} s",
                path=self._labels.path(label),
                timeout=timeout,
            )

    def _missing(self, name: str) -> MissingObjectError:
        return MissingObjectError(
            f"nothing is named {name!r} in the store at {self._where}",
            path=self._labels.path(check_name(name)),
        )


def check_name(name: str) -> str:
    """Return the file name for a name; it cannot lead out of the directory. `InvalidKeyError`."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidKeyError(f"not a name: {name!r}; a name is printable text", filename=None)
    from urllib.parse import quote  # 3 ms, and rarely needed

    quoted = quote(name, safe="").replace(".", "%2E")  # neither hidden nor a way out
    if len(quoted) > _LONGEST:
        raise InvalidKeyError(
            f"{name[:40]!r}... is too long a name: {len(quoted)} bytes as a file name, where "
            f"{_LONGEST} are allowed",
            filename=name,
        )
    return quoted
