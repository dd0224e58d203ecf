"""A pytest plug-in that puts our FileConnector in the place of ProxyStore's, for its own tests."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import proxystore.connectors.file

import fsexchange


class FileConnector(fsexchange.FileConnector):
    """Ours, but for two things that ProxyStore's tests expect and we have no use for.

    These are an argument of a fixture, and that a directory which was there before goes as well.
    """

    def __init__(self, store_dir: str, *, buffering: int = -1, **options: Any) -> None:
        with contextlib.suppress(OSError):  # not empty, or not there
            os.rmdir(store_dir)
        super().__init__(store_dir, **options)


setattr(proxystore.connectors.file, "FileConnector", FileConnector)  # noqa: B010
