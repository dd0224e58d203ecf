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
    store/          objects: Store, its handles Ref, Future and Blank, names, waits for many futures
    mpi/            ranks: Exchange; the only package that imports mpi4py, so not imported here

What is not named in `__all__` here, in `serialize` or in `mpi` may change with any version.
"""

import sys

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
from fsexchange.store import Blank, Future, Ref, Store, as_completed, wait

__version__ = "0.1.0"

# Pickles of keys and handles that were made before there were packages name these modules.
for _old, _new in {"future": "store", "keys": "connector", "ref": "store"}.items():
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]

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
    "wait",
]
