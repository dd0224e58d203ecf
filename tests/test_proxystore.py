"""ProxyStore on top of our connector, beside its own, and its own tests over ours."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, StoreClosedError, StoreError
from fsexchange.serialize import deserialize, dumps

from .processes import ROOT, lacking

theirs: Any = pytest.importorskip("proxystore.connectors.file")

from proxystore.connectors.protocols import Connector, DeferrableConnector  # noqa: E402
from proxystore.store import Store, store_registration  # noqa: E402
from proxystore.store.config import ConnectorConfig  # noqa: E402

SOURCES = ROOT / ".venv" / "peers" / "proxystore-1.1.0"


@pytest.fixture(params=["default", "ours"])
def store(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[Any]:
    """A ProxyStore store over our connector, with its serializer or with ours."""
    ours: dict[str, Any] = {"serializer": dumps, "deserializer": deserialize}
    options = ours if request.param == "ours" else {}
    connector = FileConnector(base_dir / "store")
    with (
        Store(f"test-{uuid.uuid4()}", connector, cache_size=0, **options) as store,
        store_registration(store),
    ):
        yield store
    assert not (base_dir / "store").exists()


def test_protocols(tmp_path: Path) -> None:
    with FileConnector(tmp_path / "store") as connector:
        typed: Connector[FileKey] = connector  # to mypy, too
        assert typed is connector
        assert isinstance(connector, Connector)
        assert isinstance(connector, DeferrableConnector)


def test_store_puts_gets_and_evicts(store: Any) -> None:
    array = np.random.default_rng(0).random((600, 500))
    for obj in (array, "text", b"bytes", {"a": [1, None]}):
        key = store.put(obj)
        np.testing.assert_equal(store.get(key), obj)
        store.evict(key)
        assert store.get(key) is None
    keys = store.put_batch([1, 2, 3])
    assert [store.get(key) for key in keys] == [1, 2, 3]


def _resolve(proxy: Any, results: Any) -> None:
    results.put((float(proxy.sum()), type(proxy).__mro__[0].__name__))
    results.close()
    results.join_thread()


def test_proxy_is_resolved_in_a_spawned_process(store: Any) -> None:
    proxy = store.proxy(np.ones((600, 500)))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_resolve, args=(proxy, results))
    process.start()
    assert results.get(timeout=60) == (300_000.0, "Proxy")
    process.join()
    process.close()
    results.close()
    results.join_thread()
    assert float(proxy.sum()) == 300_000.0  # the child closed nothing of ours


def _set(future: Any) -> None:
    future.set_result(np.arange(1000))


def test_future_is_set_in_a_spawned_process(store: Any) -> None:
    future = store.future(polling_interval=0.001, polling_timeout=60)
    assert not future.done()
    process = multiprocessing.get_context("spawn").Process(target=_set, args=(future,))
    process.start()
    assert future.result().sum() == 499_500
    assert future.done()
    process.join()
    process.close()


def test_store_from_config_and_connector_config(store: Any, base_dir: Path) -> None:
    key = store.put("x")
    clone = Store.from_config(store.config())
    assert clone.get(key) == "x"
    clone.close()
    assert store.get(key) == "x"
    connector: Any = ConnectorConfig(
        kind="fsexchange.FileConnector", options={"store_dir": str(base_dir / "by-hand")}
    ).get_connector()
    assert connector.owned
    connector.close()


# ---- one directory, two libraries ----------------------------------------------------------------


def test_theirs_reads_what_ours_wrote(base_dir: Path) -> None:
    with FileConnector(base_dir / "store", markers=True) as ours:
        reader = theirs.FileConnector(str(base_dir / "store"))
        promise = ours.new_key()
        named = FileKey("named")
        assert not reader.exists(theirs.FileKey(promise.filename))
        ours.set(promise, b"set")
        ours.set(named, b"named")
        for key, content in ((ours.put(b"put"), b"put"), (promise, b"set"), (named, b"named")):
            their_key = theirs.FileKey(key.filename)
            assert reader.exists(their_key)
            assert reader.get(their_key) == content
            reader.evict(their_key)
            assert not ours.exists(key)
            assert ours.get(key) is None


def test_ours_reads_what_theirs_wrote(base_dir: Path) -> None:
    writer = theirs.FileConnector(str(base_dir / "store"))
    os.chmod(base_dir / "store", 0o700)
    key, promise = writer.put(b"put"), writer.new_key()
    ours = FileConnector(base_dir / "store", markers=True)
    assert ours.get(key) == ours.get(FileKey(key.filename)) == b"put"
    assert ours.exists(key)
    assert not ours.exists(promise)
    assert ours.get(promise) is None
    ours.set(promise, b"set")
    assert writer.get(promise) == ours.get(promise) == b"set"
    # Written, but not ready: what their reader does not see, ours does not either.
    (base_dir / "store" / "half").write_bytes(b"ha")
    assert ours.get(FileKey("half")) is None
    ours.evict(key)
    assert not writer.exists(key)
    other = writer.put(b"theirs to delete")
    with pytest.warns(UserWarning, match="not removed"):
        ours.close()
    assert writer.get(other) == b"theirs to delete"
    assert writer.get(promise) is None
    assert not list((base_dir / "store").glob(".fsexchange*"))


def test_what_hurts_there_does_not_hurt_here(base_dir: Path) -> None:
    """The rows of the table in the README, side by side."""
    (base_dir / "outside").write_bytes(b"mine")
    (base_dir / "outside.ready").touch()

    them = theirs.FileConnector(str(base_dir / "theirs"))
    key = them.put(b"x")
    (base_dir / "theirs" / "results.csv").write_bytes(b"1,2")
    assert them.get(theirs.FileKey("../outside")) == b"mine"
    theirs.FileConnector.from_config(them.config()).close()
    assert them.get(key) is None
    assert not (base_dir / "theirs").exists()

    us = FileConnector(base_dir / "ours")
    ours = us.put(b"x")
    (base_dir / "ours" / "results.csv").write_bytes(b"1,2")
    with pytest.raises(ValueError, match="plain name"):
        us.get(FileKey("../outside"))
    clone = FileConnector.from_config(us.config())
    FileConnector.from_config(us.config()).close()
    assert us.get(ours) == b"x"
    os.truncate(base_dir / "ours" / ours.filename, 0)
    with pytest.raises(ValueError, match="0 bytes instead of 1"):
        us.get(ours)
    with pytest.warns(UserWarning, match=r"results\.csv"):
        us.close()
    with pytest.raises(StoreClosedError):
        clone.get(ours)
    assert issubclass(StoreClosedError, StoreError)
    assert (base_dir / "ours" / "results.csv").read_bytes() == b"1,2"


# ---- their tests, our connector ------------------------------------------------------------------


def test_their_own_tests_pass_over_our_connector() -> None:
    """Their fixtures for other connectors need services; those 25 tests are not about files."""
    if not SOURCES.is_dir():
        lacking(f"ProxyStore's sources in {SOURCES}, which scripts/test fetches")
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "proxystore_plugin", "-p", "no:cacheprovider"),
            *("-k", "not (endpoint or globus or local or multi_connector or redis)"),
            *("-o", "addopts=", "-o", "filterwarnings=", f"--rootdir={SOURCES}"),
            "tests/connectors/connector_test.py",
            "tests/connectors/file_test.py",
            "tests/store/ref_test.py",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=SOURCES,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(ROOT / "tests")])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "44 passed, 25 deselected" in done.stdout, done.stdout
