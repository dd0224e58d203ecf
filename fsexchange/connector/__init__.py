"""Bytes under keys, in a directory that processes share."""

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey

__all__ = ["FileConnector", "FileKey"]
