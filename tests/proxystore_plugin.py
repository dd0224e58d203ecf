"""A pytest plug-in that puts our FileConnector in the place of ProxyStore's, for its own tests."""

from __future__ import annotations

from typing import Any

import proxystore.connectors.file

import fsexchange


class FileConnector(fsexchange.FileConnector):
    """Ours, but for an argument that ProxyStore's fixture passes and we have no use for."""

    def __init__(self, store_dir: str, *, buffering: int = -1, **options: Any) -> None:
        super().__init__(store_dir, **options)


setattr(proxystore.connectors.file, "FileConnector", FileConnector)  # noqa: B010
