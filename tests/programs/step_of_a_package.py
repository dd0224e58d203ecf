"""A step of a package, run by `python -m`: put an object of a class of its own, or get one."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize, serialize


class Result:
    pass


def run(store_dir: str, key: str = "") -> None:
    connector = FileConnector(store_dir)
    if not key:
        print(connector.put(serialize([Result(), run])))
        return
    data = connector.get(FileKey.parse(key))
    assert data is not None
    result, function = deserialize(data)
    print(type(result) is Result, function is run)


if __name__ == "__main__":
    run(*sys.argv[1:])
