"""Names for people: "mesh/coarse" instead of a key, for scripts that start hours apart."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

from fsexchange.connector import layout
from fsexchange.connector.keys import FileKey
from fsexchange.errors import InvalidKeyError, MissingObjectError, WaitTimeoutError
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.watch import until

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector

# NAME_MAX of every file system in use, less room for the temporary file's ending: limits.h.
_LONGEST = 230


class Names(MutableMapping[str, FileKey]):
    """The names in a store, each of one key; `store.names`.

    Naming replaces what the name stood for, at once: readers find the old key or the new one. The
    object of the old key stays until it is evicted. Names last as long as the store.

    Any printable text that is not all spaces is a name, of at most 230 bytes once characters other
    than letters, digits and `_-~` are written as %XX; else `InvalidKeyError`. On a network file
    system a replaced name may stand for its old key for as long as the mount caches, seconds. With
    `markers` there is a moment without the name between its old key and its new one.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     key = store.put([1, 2, 3], name="mesh/coarse")
    ...     sorted(store.names), store.names["mesh/coarse"] == key
    (['mesh/coarse'], True)
    """

    def __init__(self, connector: FileConnector) -> None:
        self._connector = connector
        self._folder = f"{connector.store_dir}/{layout.NAMES}"

    def __getitem__(self, name: str) -> FileKey:
        path = self._path(name)
        tries = publish.TRIES
        while tries:
            try:
                marker = f"{path}.ready" if self._connector.markers else path
                if not self._connector.policy.may_open(marker):
                    break
                read = publish.read_marked if self._connector.markers else files.read
                return FileKey.parse(bytes(read(path, -1, mappable=False)).decode())
            except FileNotFoundError:
                break
            except OSError as error:
                tries -= 1
                if error.errno not in publish.REPLACED or not tries:
                    raise self._connector.directory.explain(error, "read", path) from error
        self._connector.directory.check()
        raise MissingObjectError(
            f"nothing is named {name!r} in the store at {self._connector.store_dir}", path=path
        )

    def __setitem__(self, name: str, key: FileKey) -> None:
        path = self._path(name)
        text = str(FileKey.unpack(key.pack())).encode()  # proven to be a key
        try:
            if self._connector.markers:
                publish.by_marker(path, [text], len(text), once=False)
            else:
                publish.by_rename(path, [text], len(text))
        except OSError as error:
            raise self._connector.directory.explain(error, "write", path) from error

    def __delitem__(self, name: str) -> None:
        path = self._path(name)
        try:
            if self._connector.markers:
                files.unlink(f"{path}.ready")
            os.unlink(path)
        except FileNotFoundError:
            self._connector.directory.check()
            raise MissingObjectError(
                f"nothing is named {name!r} in the store at {self._connector.store_dir}", path=path
            ) from None
        except OSError as error:
            raise self._connector.directory.explain(error, "remove", path) from error

    def __iter__(self) -> Iterator[str]:
        try:
            listing = files.listing(self._folder)
        except OSError as error:
            raise self._connector.directory.explain(error, "list", self._folder) from error
        ending = ".ready" if self._connector.markers else ""
        found = [name.removesuffix(ending) for name in listing if name.endswith(ending)]
        if not found:
            self._connector.directory.check()
        from urllib.parse import unquote  # 3 ms, and rarely needed

        # Dots in names are quoted: a file with one is a marker or temporary.
        return iter([unquote(name) for name in found if "." not in name])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connector.store_dir!r}, {len(self)} names)"

    def wait(self, name: str, timeout: float | None = None) -> None:
        """Return once there is such a name; `WaitTimeoutError` after `timeout` seconds."""
        path = self._path(name)
        if not until(
            lambda: name in self,
            self._folder,
            deadline=None if timeout is None else time.monotonic() + timeout,
            watches=self._connector.watches(),
            check=self._connector.directory.check,
        ):
            raise WaitTimeoutError(
                f"nothing was named {name!r} in the store at {self._connector.store_dir} within "
                f"{timeout:g} s",
                path=path,
                timeout=timeout,
            )

    def _path(self, name: str) -> str:
        self._connector.check_open()
        self._connector.directory.check()  # another store in this place would have this directory
        return f"{self._folder}/{check_name(name)}"


def check_name(name: str) -> str:
    """Return the file of a name, proven to be in the directory of names; `InvalidKeyError`."""
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
