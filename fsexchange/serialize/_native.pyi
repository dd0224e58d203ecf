from collections.abc import Callable, Sequence
from pickle import PickleBuffer, Pickler
from typing import Any, TypeVar

from typing_extensions import Buffer

from fsexchange.serialize.instances import Plain

_B = TypeVar("_B", bytes, bytearray)

def cleaning(crc32: Callable[..., int], /) -> Callable[..., int]: ...
def is_simple(obj: object, most: int, /) -> bool: ...
def simple_pickle(obj: object, most: int, /) -> bytes | None: ...
def small_frame(body: bytes, crc32: Callable[..., int], section: bytes = b"", /) -> bytes: ...
def small_frames(
    pieces: Sequence[bytes | memoryview], section: bytes, crc32: Callable[..., int], /
) -> list[bytes | memoryview]: ...
def framed(
    body: bytes, buffers: list[memoryview], crc32: Callable[..., int], /
) -> list[bytes | memoryview]: ...
def parsed(
    view: memoryview, crc32: Callable[..., int], /
) -> tuple[bytes, list[memoryview]] | None: ...
def loaded(buffer: object, crc32: Callable[..., int], seen: bytes, name: bytes, /) -> Any: ...
def may_name(body: Buffer, name: bytes, /) -> bool: ...
def has_attributes(obj: object, attributes: tuple[tuple[str, Any], ...], /) -> bool: ...
def pickle_of_plain(obj: Any, plain: Plain, /) -> bytes | None: ...
def asking(
    base: type[Pickler],
    how: dict[type, Any],
    found: dict[int, Any],
    decide: Callable[[type], Any],
    named: Callable[..., Any],
    plain: Callable[..., Any],
    ways: tuple[tuple[str, Any], ...],
    reducers: dict[type, Any],
    newobj: Callable[..., Any],
    /,
) -> type[Pickler]: ...
def dump_small(
    taken: list[Any], obj: Any, small: int, memo: int, /
) -> bytes | tuple[list[Any], Sequence[memoryview], Sequence[Any]] | None: ...
def dumper(
    idle: list[Any],
    instances: dict[type, Plain],
    crc32: Callable[..., int],
    most: int,
    small: int,
    memo: int,
    /,
) -> Callable[[Any], Any]: ...
def keeper(into: list[Any], least: int, /) -> Callable[[PickleBuffer], bool]: ...
def copied_to_new(kind: type[_B], data: memoryview, /) -> _B: ...
def array_reducer(
    load: Callable[..., Any],
    otherwise: Callable[[Any, Any], Any],
    natives: dict[str, str],
    masked: str,
    copied: int,
    subclasses: int,
    /,
) -> Callable[[Any, Any], Any]: ...
def _ndarray(data: Any, dtype: Any, shape: tuple[int, ...], order: Any, /) -> Any: ...
