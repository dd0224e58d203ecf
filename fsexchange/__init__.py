"""Exchange Python objects, above all large arrays, through files that processes share."""

from fsexchange.connector import FileConnector, FileKey
from fsexchange.errors import (
    CorruptObjectError,
    FsExchangeError,
    InvalidKeyError,
    KeyExistsError,
    MissingObjectError,
    NotSharedError,
    RemoteError,
    SerializationError,
    StoreClosedError,
    StoreError,
    UntrustedDirectoryError,
    WaitTimeoutError,
)
from fsexchange.store import Future, Ref, Store

__version__ = "0.1.0"

__all__ = [
    "CorruptObjectError",
    "FileConnector",
    "FileKey",
    "FsExchangeError",
    "Future",
    "InvalidKeyError",
    "KeyExistsError",
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
]
