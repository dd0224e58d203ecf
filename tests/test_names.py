"""Names: any sensible text, replaced at once, confined to their directory."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsexchange import (
    FileConnector,
    FileKey,
    InvalidKeyError,
    MissingObjectError,
    SerializationError,
    Store,
    StoreClosedError,
    StoreError,
)
from fsexchange.connector.ownfiles import OwnFiles
from fsexchange.store.store import _NO_DEFAULT

from .processes import python


@pytest.fixture(params=[{}, {"markers": True}], ids=["rename", "markers"])
def store(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[Store]:
    with Store(FileConnector(base_dir / "store", **request.param)) as store:
        yield store
    assert not (base_dir / "store").exists()


GOOD = [
    "mesh",
    "mesh/coarse",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    ".hidden",
    "with space and ümläut 漢字",
    "a%2Fb",
    "-rf *",
    "~/x",
    "x" * 230,
    ".fsexchange",
    "x.tmp",
    "x.ready",
]


@pytest.mark.parametrize("name", GOOD)
def test_any_sensible_text_is_a_name(store: Store, name: str) -> None:
    key = store.put("x", name=name)
    assert store.names[name] == key
    assert list(store.names) == [name]
    assert store.get(name) == "x"
    assert store.exists(name)
    inside = {p.parent.name for p in Path(store.connector.store_dir).rglob("*") if p.is_file()}
    assert inside <= {"store", ".fsexchange-names", key.filename.split("/")[0]}
    store.evict(name)
    assert name not in store.names
    assert not store.exists(key)
    store.evict(name)


@pytest.mark.parametrize("name", ["", " ", "\0", "a\0b", "a\nb", "x" * 231, "ü" * 100, "\udc80"])
def test_what_is_no_name_is_refused(store: Store, name: str) -> None:
    key = store.put("x")
    for use in (lambda: store.put("y", name=name), lambda: store.names.__setitem__(name, key)):
        with pytest.raises(InvalidKeyError, match="name"):
            use()
    for ask in (store.get, store.exists, store.evict, store.wait):
        with pytest.raises(InvalidKeyError):
            ask(name)


def test_names_are_a_mutable_mapping(store: Store) -> None:
    names = store.names
    assert dict(names) == {}
    assert len(names) == 0
    keys = {"b/2": store.put(2), "a/1": store.put(1)}
    names.update(keys)
    assert dict(names) == keys
    assert len(names) == 2
    assert "a/1" in names
    assert "c" not in names
    assert 7 not in [*names]
    assert names.get("c") is None
    assert names.pop("a/1") == keys["a/1"]
    with pytest.raises(KeyError, match="nothing is named 'a/1'"):
        names["a/1"]
    with pytest.raises(MissingObjectError):
        del names["a/1"]
    for bad in (FileKey("../x"), ("a", 1, 0), "a", None):
        with pytest.raises(InvalidKeyError):
            names["x"] = bad  # type: ignore[assignment]
    names.clear()
    assert list(names) == []
    assert store.get(keys["b/2"]) == 2  # the object stays
    assert "0 names" in repr(names)


def test_name_is_replaced_at_once(store: Store) -> None:
    keys = [store.put(n) for n in range(10)]
    store.names["current"] = keys[0]
    done = threading.Event()

    def replace() -> None:
        for n in range(1000):
            store.names["current"] = keys[n % 10]
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    seen: set[FileKey | None] = set()
    while not done.is_set():
        seen.add(store.names.get("current"))
        # With markers there is a moment without the name.
        assert list(store.names) == ["current"] or store.connector.markers
    thread.join()
    assert seen <= {*keys, None} if store.connector.markers else seen <= {*keys}
    assert store.get("current") == 9
    assert store.get(keys[0]) == 0  # what it stood for before stays


def test_replace_evicts_the_object_that_had_the_name(store: Store) -> None:
    """A loop that saves its state under one name keeps one object, in the cache as well."""
    for n in range(5):
        key = store.put([n], name="state", replace=True)
        assert store.names["state"] == key
        assert store.get("state") == [n]
    files = list(Path(store.connector.path(key)).parent.iterdir())
    assert sorted(path.name for path in files if path.name[0] != ".") == sorted(
        [Path(key.filename).name] + store.connector.markers * [Path(key.filename).name + ".ready"]
    )
    store.put([5], name="state")  # without it the old object stays
    assert store.get(key) == [4]


def test_replace_needs_a_name(store: Store) -> None:
    with pytest.raises(ValueError, match="name"):
        store.put(1, replace=True)


def test_replace_forgets_what_is_cached(base_dir: Path) -> None:
    with Store(base_dir / "store", cache=1000) as store:
        key = store.put(1, name="state")
        assert store.get(key) == 1
        store.put(2, name="state", replace=True)
        assert store.get(key, default=None) is None


def test_a_name_of_an_object_that_is_gone_can_be_replaced(store: Store) -> None:
    store.evict(store.put(1, name="state"))
    store.put(2, name="state", replace=True)
    assert store.get("state") == 2


def test_failed_replacement_leaves_the_old_object(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.put("old", name="state")
    with pytest.raises(SerializationError):
        store.put(threading.Lock(), name="state", replace=True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise StoreError("no space left", errno=errno.ENOSPC)

    verbs = (FileConnector, "_create"), (OwnFiles, "publish")  # of the object, of its name
    for each, verb in verbs:
        with monkeypatch.context() as patch:
            patch.setattr(each, verb, refuse)
            with pytest.raises(StoreError):
                store.put("new", name="state", replace=True)
        assert store.names["state"] == old
        assert store.get("state") == "old"
    left = [path.name for path in Path(store.connector.path(old)).parent.iterdir()]
    assert [name for name in left if name.isdigit()] == [Path(old.filename).name]


def test_old_object_that_cannot_be_removed_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the new one has the name."""
    old = store.put("old", name="state")

    def refuse(self: OwnFiles, path: str, plain: bool) -> bool:
        raise StoreError("the server fails", errno=errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(OwnFiles, "remove", refuse)
        with pytest.raises(StoreError, match="the server fails"):
            store.put("new", name="state", replace=True)
    assert store.get("state") == "new"
    assert store.get(old) == "old"


def test_put_that_is_interrupted_when_it_has_the_name_leaves_its_object(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just after the rename: the name never stands for an object that is gone."""
    real = OwnFiles.publish

    def publish(self: OwnFiles, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        raise KeyboardInterrupt

    store.put("old", name="state")
    with monkeypatch.context() as patch:
        patch.setattr(OwnFiles, "publish", publish)
        with pytest.raises(KeyboardInterrupt):
            store.put("new", name="state", replace=True)
    assert store.get("state") == "new"


def test_put_that_is_interrupted_before_it_has_the_name_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.put("old", name="state")

    def publish(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OwnFiles, "publish", publish)
        with pytest.raises(KeyboardInterrupt):
            store.put("new", name="state", replace=True)
    assert store.get("state") == "old"
    left = [path.name for path in Path(store.connector.path(old)).parent.iterdir()]
    assert [name for name in left if name.isdigit()] == [Path(old.filename).name]


def test_readers_find_one_or_the_other_while_it_is_replaced(store: Store) -> None:
    """Nobody gets MissingObjectError; with markers there is a moment without the name."""
    store.put(0, name="state")
    done = threading.Event()

    def replace() -> None:
        for n in range(300):
            store.put(n, name="state", replace=True)
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    seen = []
    while not done.is_set():
        seen.append(store.get("state", default=-1 if store.connector.markers else _NO_DEFAULT))
    thread.join()
    got = [n for n in seen if n != -1]
    assert got == sorted(got)


def test_name_of_an_evicted_object_says_so(store: Store) -> None:
    key = store.put("x", name="mesh")
    store.evict(key)
    assert not store.exists("mesh")
    with pytest.raises(MissingObjectError, match="mesh"):
        store.get("mesh")


def test_names_are_visible_to_other_processes(store: Store) -> None:
    store.put({"made": "here"}, name="from parent")
    python("name_from_a_child", store.connector.store_dir)
    assert sorted(store.names) == ["from child", "from parent"]
    assert store.get("from child") == [1, 2]


def test_names_of_a_closed_store_have_a_repr(base_dir: Path) -> None:
    with Store(base_dir / "store") as store, Store(base_dir / "store") as attached:
        names = attached.names
        attached.close()
        assert repr(names) == f"Names('{base_dir}/store')"
        names = store.names
    assert repr(names) == f"Names('{base_dir}/store')"


def test_names_that_cannot_be_listed_are_a_store_error(store: Store) -> None:
    folder = Path(store.store_dir, ".fsexchange-names")
    folder.rmdir()
    folder.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot list"):
        list(store.names)
    folder.unlink()


def test_names_of_a_closed_store_are_an_error(base_dir: Path) -> None:
    owner = Store(base_dir / "store")
    owner.put(1, name="mesh")
    attached = Store(base_dir / "store")
    owner.close()
    for use in (
        lambda: attached.names["mesh"],
        lambda: list(attached.names),
        lambda: attached.get("mesh"),
        lambda: attached.names.__setitem__("x", FileKey("x")),
        lambda: attached.names.__delitem__("mesh"),
        lambda: attached.wait("other", timeout=60),
    ):
        with pytest.raises(StoreClosedError):
            use()
