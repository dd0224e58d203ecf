"""Exchange Python objects, above all large arrays, through files that processes share.

Each layer is a package, which imports only from those above it:

    errors          every error
    filesystem/     what the operating system offers; knows no keys
        files       a whole file: written, read, or mapped from 1 MiB on
        publish     put a file in place by renaming, or by a marker
        kinds       what each kind of file system can be trusted with
        watch       wait for a name to appear
    serialize/      any object as frames (a list of buffers) and back; knows no files
    connector/      bytes under keys
        connector   the verbs; keys are checked here
        ownfiles    objects that have a file each
        segments    small objects that share a file, until the last is evicted
        directory   the hold on a store: whether it is there, who owns it, how it ends
        opening     make a store, attach to it, or adopt it
        verdict     whether a store's owner is proven dead; others may remove it then
    store/          objects: Store, its handles Ref, Future and Blank, names, waits for many; gc
    mpi/            ranks: Exchange; the only package that imports mpi4py, so not imported here
    pools/          executors that move large arguments and results by files
    cli/            the `fsexchange` command, a module a subcommand

What is not named in `__all__` here, in `serialize` or in `mpi` may change with any version.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsexchange.connector import FileConnector, FileKey
    from fsexchange.errors import (
        CorruptObjectError,
        FsExchangeError,
        InvalidKeyError,
        KeyExistsError,
        MismatchError,
        MissingObjectError,
        NotSharedError,
        RemoteError,
        SerializationError,
        StoreClosedError,
        StoreError,
        UntrustedDirectoryError,
        WaitTimeoutError,
    )
    from fsexchange.store import Blank, Future, Ref, Store, as_completed, gc, wait

__version__ = "0.1.0"

__all__ = [
    "Blank",
    "CorruptObjectError",
    "FileConnector",
    "FileKey",
    "FsExchangeError",
    "Future",
    "InvalidKeyError",
    "KeyExistsError",
    "MismatchError",
    "MissingObjectError",
    "NotSharedError",
    "Ref",
    "RemoteError",
    "SerializationError",
    "Store",
    "StoreClosedError",
    "StoreError",
    "UntrustedDirectoryError",
    "WaitTimeoutError",
    "as_completed",
    "gc",
    "wait",
]

# Packages that can be used as attributes without an import of their own.
_LAYERS = ("errors", "filesystem", "serialize", "connector", "store")

# Pickles of keys and handles that were made before there were packages name these modules, and this
# function of one.
for _old in ("future", "keys", "ref"):
    sys.modules[f"{__name__}.{_old}"] = sys.modules[__name__]
_OLD = ("_load_failure",)

if not TYPE_CHECKING:  # else a checker would take any name

    def __getattr__(name: str) -> Any:
        """Import what is first asked for: with numpy it takes 0.3 s, and `--help` needs none."""
        if name in _LAYERS:
            return importlib.import_module(f"{__name__}.{name}")
        if name in __all__ or name in _OLD:
            for layer in ("errors", "connector", "store"):
                module = importlib.import_module(f"{__name__}.{layer}")
                if name in vars(module):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAYERS, *__all__})
