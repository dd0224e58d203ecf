"""Load long objects, as a script that is run by its module's name; print the peak in MiB."""

from __future__ import annotations

import copyreg
import dataclasses
import pickle
import tracemalloc

from fsexchange.serialize import deserialize, dumps, script
from fsexchange.serialize.crc import crc32
from fsexchange.serialize.format import small_frame


@dataclasses.dataclass
class Run:
    data: bytes
    texts: list[str]


def main() -> None:
    run = Run(bytes(32 << 20), [f"text {n}" for n in range(10_000)])
    data = dumps({"runs": [run, run]})
    tracemalloc.start()
    first, second = deserialize(data)["runs"]
    print(tracemalloc.get_traced_memory()[1] >> 20)
    assert first == run
    assert first is second
    # Else the name of the script would not have been looked for.
    assert script.importable == b"tests.programs.load_long_objects"
    # A pickle that names a class by a number has no text of it.
    copyreg.add_extension("tests.programs.load_long_objects", "Run", 0x30)
    assert deserialize(small_frame(pickle.PROTO + b"\4" + pickle.EXT1 + b"\x30.", crc32)) is Run


if __name__ == "__main__":
    main()
