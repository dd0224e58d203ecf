"""Instances of classes are pickled as pickle does it, whatever their class says, and whenever."""

from __future__ import annotations

import collections.abc
import copyreg
import dataclasses
import enum
import importlib
import io
import pickle
import pickletools
import queue
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from fsexchange import SerializationError
from fsexchange.serialize import deserialize, dumps, serialize
from fsexchange.serialize.description import describe
from fsexchange.serialize.instances import INSTANCES

from .processes import python

T = TypeVar("T")


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = "a"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


@dataclasses.dataclass
class Slots:
    __slots__ = ("x",)
    x: int


class Half(Slots):
    """Has both slots and a `__dict__`."""

    def __init__(self, x: int, y: int) -> None:
        super().__init__(x)
        self.y = y


@dataclasses.dataclass
class Of(Generic[T]):
    x: T


class Concrete(collections.abc.Sized):
    def __init__(self) -> None:
        self.x = 1

    def __len__(self) -> int:
        return self.x


class Outer:
    class Ünder:
        def __init__(self) -> None:
            self.x = 1


class Listed(list[int]):
    x = 0


class Proxy:
    """Before Python 3.11 pickle asks its target for a state."""

    def __init__(self, target: Any) -> None:
        self.__dict__["_target"] = target

    def __getattr__(self, name: str) -> Any:
        if name == "_target":
            raise AttributeError(name)
        return getattr(self._target, name)


class FailedError(ValueError):
    pass


class OfThread(threading.local):
    """Has memory of C, which pickle refuses."""

    def __init__(self) -> None:
        self.x = 1


class Waiting(queue.SimpleQueue[int]):
    x = 1


class Colour(enum.Enum):
    RED = 1


class WithState:
    def __init__(self) -> None:
        self.x = 1

    def __getstate__(self) -> Any:
        return {"y": 2}


class SetsState:
    """Tells whether it was given a state."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state, given=True)


class WithReduce:
    def __init__(self) -> None:
        self.x = 1

    def __reduce__(self) -> Any:
        return Frozen, (7,)


class WithNewargs:
    def __new__(cls, x: int) -> WithNewargs:
        made = super().__new__(cls)
        made.x = x
        return made

    x: int

    def __getnewargs__(self) -> tuple[int]:
        return (self.x,)


class ShowsAnotherDict:
    def __init__(self) -> None:
        object.__setattr__(self, "hidden", {"x": 1})

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return {"x": 2}


class Watched:
    """Answers for all attributes itself."""

    def __init__(self) -> None:
        self.x = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "__reduce_ex__":
            return lambda protocol: (Frozen, (8,))
        return object.__getattribute__(self, name)


class Poses:
    """Says that it is of another class."""

    def __init__(self) -> None:
        self.x = 1

    @property
    def __class__(self) -> Any:
        return Point

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        pass


class Reduced:
    def __init__(self) -> None:
        self.x = 1


def given(state: Any) -> SetsState:
    made = SetsState()
    made.__dict__.update(state)
    return made


def an_instance_with(name: str, value: Any) -> Point:
    point = Point(1)
    vars(point)[name] = value
    return point


def of_the_class(*_: Any) -> Any:
    return Frozen, (9,)


MAKERS: list[Callable[[], Any]] = [
    lambda: Point(1),
    lambda: Point(1.5, None),
    lambda: Point("x" * 5000, b"y" * 5000),
    lambda: Point(b"x" * 200_000, bytearray(200_000)),
    lambda: Point([Point(1), {"a": Point(2)}], (Frozen(3),)),
    lambda: Point(Point, len),
    lambda: [Point(n) for n in range(100)],
    lambda: {n: Point(n, Point(n)) for n in range(100)},
    lambda: Frozen(1),
    lambda: Slots(1),
    lambda: Half(1, 2),
    lambda: Of("text"),
    lambda: Of[int](3),
    Concrete,
    Outer.Ünder,
    lambda: Listed([1, 2]),
    lambda: FailedError("text", 3),
    lambda: Colour.RED,
    WithState,
    SetsState,
    lambda: given({"x": 1}),
    WithReduce,
    lambda: WithNewargs(4),
    Watched,
    lambda: an_instance_with("attribute", 5),
    lambda: an_instance_with("ä b\n", 5),
    lambda: an_instance_with("__reduce_ex__", of_the_class),
    lambda: an_instance_with("__class__", 3),
    lambda: an_instance_with("__getstate__", None),
    lambda: an_instance_with("__reduce_ex__", None),
    lambda: Proxy(WithState()),
    lambda: Proxy(Point(1)),
    threading.local,
    OfThread,
    Waiting,
    object,
]


def outcome(load: Callable[[Any], Any], dump: Callable[[Any], Any], obj: Any) -> Any:
    """All that is to be seen of an object after it was dumped and loaded, or of the error."""
    try:
        return seen(load(dump(obj)))
    except Exception as error:
        return type(error) if "erializ" not in type(error).__name__ else pickle.PicklingError


def seen(obj: Any, depth: int = 0) -> Any:
    if isinstance(obj, (list, tuple)):
        return type(obj), [seen(each, depth + 1) for each in obj]
    if isinstance(obj, dict):
        return {name: seen(each, depth + 1) for name, each in obj.items()}
    if isinstance(obj, (int, float, str, bytes, bytearray, type)) or obj is None:
        return type(obj), obj
    return type(obj), {name: seen(each) for name, each in getattr(obj, "__dict__", {}).items()}


@pytest.mark.parametrize("make", MAKERS)
def test_instances_come_back_as_from_pickle(make: Callable[[], Any]) -> None:
    obj = make()
    expected = outcome(pickle.loads, lambda obj: pickle.dumps(obj, 5), obj)
    if isinstance(expected, type):
        expected = pickle.PicklingError
    for _ in range(3):  # the first decides how, the others have it decided
        assert outcome(deserialize, dumps, obj) == expected


def test_kinds_that_are_not_plain_stay_with_pickle() -> None:
    for make in (Slots, Half, WithState, WithReduce, WithNewargs, Watched, ShowsAnotherDict, Poses):
        assert make not in INSTANCES
    for obj in (ShowsAnotherDict(), Poses()):
        assert outcome(deserialize, dumps, obj) == outcome(pickle.loads, pickle.dumps, obj)
        assert type(obj) not in INSTANCES
    for plain in (Point(1), Of(1)):
        dumps(plain)
        assert type(plain) in INSTANCES


def test_what_is_kept_of_a_class_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    obj = Reduced()
    for each in (obj, [obj, obj]):
        dumps(each)  # now it is decided
    ways: list[Callable[[pytest.MonkeyPatch], None]] = [
        lambda patch: patch.setattr(Reduced, "__reduce__", of_the_class, raising=False),
        lambda patch: patch.setattr(Reduced, "__reduce_ex__", of_the_class, raising=False),
        lambda patch: patch.setitem(copyreg.dispatch_table, Reduced, of_the_class),
    ]
    for way in ways:
        with monkeypatch.context() as patch:
            way(patch)
            assert deserialize(dumps(obj)) == Frozen(9)
            assert deserialize(dumps([obj])) == [Frozen(9)]
    with monkeypatch.context() as patch:
        patch.setattr(Reduced, "__getstate__", lambda self: {"x": "state"}, raising=False)
        assert deserialize(dumps(obj)).x == "state"
        assert deserialize(dumps([obj]))[0].x == "state"
    assert deserialize(dumps(obj)).x == 1


def test_a_class_that_took_the_place_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    obj = Reduced()
    dumps(obj)
    monkeypatch.setitem(globals(), "Reduced", Frozen)
    got = deserialize(dumps(obj))  # by value, as it has no name any more
    assert type(got).__name__ == "Reduced"
    assert type(got) is not Frozen
    assert got.x == 1


def test_names_of_attributes_of_any_class() -> None:
    class Local(str):
        pass

    for name in (Local("name"), Colour.RED, 3, (1, 2)):
        point = Point(1)
        point.__dict__[name] = 5  # type: ignore[index]
        for _ in range(2):
            got = list(deserialize(dumps(point)).__dict__)[2]
            assert str(got) == str(name)
            assert type(got).__name__ == type(name).__name__
    point.__dict__[Same(point)] = 1  # type: ignore[index]
    for _ in range(2):
        got = deserialize(dumps(point))
        assert list(got.__dict__)[-1].of is got


class Same:
    def __init__(self, of: Any) -> None:
        self.of = of

    def __hash__(self) -> int:
        return 1


def test_attributes_that_another_thread_adds_and_removes() -> None:
    point = Point(1)
    over = threading.Event()

    def change() -> None:
        n = 0
        while not over.is_set():
            n += 1
            point.__dict__[f"name{n % 20}"] = n
            point.__dict__.pop(f"name{(n + 7) % 20}", None)

    thread = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20_000):
            assert deserialize(dumps(point)).x == 1
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("make", [lambda values: values, Point], ids=["list", "attribute"])
def test_a_list_that_another_thread_changes(make: Callable[[Any], Any]) -> None:
    """What it puts there is never pickled as if it was not there."""
    values: list[Any] = [1]
    obj = make(values)
    over = threading.Event()
    end = time.monotonic() + 1.5

    def change() -> None:
        while not over.is_set():
            values.append(lambda: 5)
            values.pop()

    thread = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        while time.monotonic() < end:
            dumps(obj)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)


class Mapping(dict[str, Any]):
    def __reduce__(self) -> Any:
        return dict, ([("x", "reduced")],)


def test_attributes_in_a_mapping_of_ones_own() -> None:
    point = Point(1)
    point.__dict__ = Mapping(x=1)
    dumps(Point(1))
    assert deserialize(dumps(point)).x == pickle.loads(pickle.dumps(point)).x == "reduced"


def test_a_name_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Odd", (), {"__module__": __name__})
    kind.__qualname__ = "odd\udcff"
    monkeypatch.setattr(sys.modules[__name__], kind.__qualname__, kind, raising=False)
    obj = kind()
    obj.x = 1
    for _ in range(2):
        assert deserialize(dumps(obj)).x == 1


def test_a_class_in_a_class_that_was_defined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("defined_again")
    monkeypatch.setitem(sys.modules, "defined_again", module)
    source = "class Outer:\n class Inner:\n  pass\n"
    exec(source, module.__dict__)
    inner = module.Outer.Inner
    for obj in (inner(), inner, [inner()]):
        dumps(obj)
    exec(source, module.__dict__)
    assert type(deserialize(dumps(inner()))).__qualname__ == "Outer.Inner"  # by value


def test_a_module_that_was_imported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("imported_again.py").write_text("class P:\n def __init__(s): s.x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imported_again")
    obj = module.P()
    dumps(obj)
    del sys.modules["imported_again"]
    importlib.import_module("imported_again")
    for _ in range(2):
        with pytest.raises(SerializationError, match="not the same object"):
            dumps(obj)


def test_a_class_that_says_later_where_it_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    public = types.ModuleType("public_place")
    monkeypatch.setitem(sys.modules, "public_place", public)
    obj = Reduced()
    dumps(obj)
    public.Reduced = Reduced  # type: ignore[attr-defined]
    monkeypatch.setattr(Reduced, "__module__", "public_place")
    assert b"public_place" in dumps(obj)
    assert deserialize(dumps(obj)).x == 1


def test_an_object_is_one_object_wherever_it_is_mentioned() -> None:
    point: Any = Point(1)
    point.x = point
    for _ in range(2):
        assert deserialize(dumps(point)).x.x.x.y == "a"
        first, second = deserialize(dumps([point, point]))
        assert first is second


def test_arrays_in_instances_are_not_copied() -> None:
    array = np.arange(10_000.0)
    for _ in range(2):
        frames = [np.frombuffer(frame, np.uint8) for frame in serialize(Point(array)) if len(frame)]
        assert any(np.shares_memory(frame, array) for frame in frames)


def test_anybodys_unpickler_loads_the_pickle() -> None:
    for obj in (Point(1, "text"), Outer.Ünder(), Point(list(range(1000)))):
        for _ in range(2):
            data = dumps(obj)[20:]
            assert seen(getattr(pickle, "_loads")(data)) == seen(obj)  # noqa: B009
            pickletools.dis(pickletools.optimize(data), out=io.StringIO())
            kind = type(obj)
            made = describe(dumps(obj), len(dumps(obj))).of
            assert made == f"{kind.__module__}.{kind.__qualname__}"


def test_a_script_that_defines_its_dataclass_again() -> None:
    python("define_a_dataclass_again")
