"""A wait without a time-out ends when the owner of a private store was killed, and says so."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsexchange import FileConnector, Store, StoreClosedError, WaitTimeoutError
from fsexchange.connector import detector, life
from fsexchange.connector import owner as owners
from fsexchange.connector.gate import gate

from .processes import fork, python
from .test_life import end, owner

pytestmark = pytest.mark.slow

WAITS: dict[str, Callable[[Store], object]] = {
    "wait": lambda store: store.wait(store.connector.new_key()),
    "wait for a name": lambda store: store.wait("never named"),
    "names.wait": lambda store: store.names.wait("never named"),
    "result": lambda store: store.future().result(),
    "exception": lambda store: store.future().exception(),
}


@pytest.fixture
def orphan(base_dir: Path) -> Iterator[Store]:
    """A store whose owner was killed, and that nobody has adopted."""
    process, _ = owner(base_dir / "store")
    store = Store(base_dir / "store")
    assert not store.connector.owned
    end(process)
    yield store
    store.close()
    heir = FileConnector(base_dir / "store")
    assert heir.owned
    heir.close()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_nobody_waits_for_ever_for_a_dead_owner(
    wait: Callable[[Store], object], orphan: Store
) -> None:
    with pytest.raises(StoreClosedError, match=r"process [0-9]+ on .*is gone.*timeout") as caught:
        wait(orphan)
    assert caught.value.errno == errno.EOWNERDEAD
    key = orphan.put("x")  # all else goes on
    assert orphan.get(key) == "x"
    with pytest.raises(StoreClosedError):
        orphan.connector.guard(None, lambda: False)()  # known by now: said at once


def test_owner_that_is_killed_in_mid_wait(base_dir: Path) -> None:
    process, _ = owner(base_dir / "store")
    store = Store(base_dir / "store")
    threading.Timer(1.5, end, (process,)).start()
    with pytest.raises(StoreClosedError, match="is gone"):
        store.future().result()
    FileConnector(base_dir / "store").close()


def test_with_a_timeout_the_wait_goes_on_until_it_ends(orphan: Store) -> None:
    """A process that is still attached may set it."""
    with pytest.raises(WaitTimeoutError, match="owner, process .* is gone"):
        orphan.future().result(timeout=2.5)
    future = orphan.future()
    threading.Timer(2.5, future.set_result, ("late",)).start()
    assert future.result(timeout=60) == "late"


def test_what_is_set_while_the_owner_is_looked_for_is_found(
    orphan: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = orphan.future()
    real = life.is_gone

    def is_gone(path: str, owner: owners.Owner) -> bool:
        gone = real(path, owner)
        future.set_result("just in time")
        return gone

    monkeypatch.setattr(detector, "is_gone", is_gone)
    assert future.result() == "just in time"


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the owner each time."""
    monkeypatch.setattr(detector, "_CHECK_EVERY", 0.0)


def checks(store: Store) -> None:
    """Look at the owner as a wait does, several times."""
    check = store.connector.guard(None, lambda: False)
    for _ in range(3):
        check()


def test_living_owners_are_waited_for(base_dir: Path, brisk: None) -> None:
    """In this process, through another connector, in a child, and while the store is adopted."""
    with Store(base_dir / "store") as store:
        checks(store)
        checks(Store(base_dir / "store"))
        assert os.waitpid(fork(lambda: checks(store)), 0)[1] == 0
    process, _ = owner(base_dir / "store")
    attached = Store(base_dir / "store")
    checks(attached)
    end(process)
    with pytest.raises(StoreClosedError, match="is gone"):
        checks(attached)
    with Store(base_dir / "store") as heir:
        checks(heir)
        checks(attached)


def test_kept_stores_have_no_owner_to_wait_for(base_dir: Path, brisk: None) -> None:
    python("keep_a_store", base_dir / "kept")
    store = Store(base_dir / "kept")
    checks(store)
    process, _ = owner(base_dir / "store")
    attached = Store(base_dir / "store")
    record = owners.read_record(str(base_dir / "store"))
    assert record is not None
    owners.renew_record(str(base_dir / "store"), record._replace(clear=False))  # as it is kept
    end(process)
    checks(attached)
    for name in "kept", "store":
        FileConnector(base_dir / name).close(clear=True)


def test_child_of_a_killed_owner_does_not_wait(base_dir: Path) -> None:
    out = python("wait_as_an_orphan", base_dir / "store", check=False)
    deadline = time.monotonic() + 30
    told = base_dir / "told"
    while not told.exists() or not told.read_text():
        assert time.monotonic() < deadline, out
        time.sleep(0.05)
    assert told.read_text() == "StoreClosedError"
    FileConnector(base_dir / "store").close()


def test_who_adopts_or_clears_meanwhile_is_not_disturbed(base_dir: Path, brisk: None) -> None:
    """The check takes the gate for a moment, and never waits for it."""
    process, _ = owner(base_dir / "store")
    attached = Store(base_dir / "store")
    end(process)
    with gate(str(base_dir / "store")):
        checks(attached)  # somebody may be about to adopt it
    FileConnector(base_dir / "store").close()
    with pytest.raises(StoreClosedError, match="closed it"):
        checks(attached)


def test_between_hosts_one_warning_tells_of_silence(
    base_dir: Path, brisk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = owner(base_dir / "store")
    store = Store(base_dir / "store")
    found = owners.read_record(str(base_dir / "store"))
    assert found is not None
    owners.renew_record(str(base_dir / "store"), found._replace(locked=False))
    end(process)
    monkeypatch.setattr(detector, "HEARTBEAT", 0.0)
    checks(store)
    record = base_dir / "store" / ".fsexchange"
    os.utime(record, (time.time() - 400, time.time() - 400))
    with pytest.warns(UserWarning, match=r"process [0-9]+ on .* silent for [34][0-9]{2} s") as told:
        checks(store)
    assert len(told) == 1
    checks(store)
    store.connector.close(clear=True)


def test_a_look_at_the_owner_is_made_once_a_second(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the wait wakes up; between hosts once a heartbeat, as it makes a file."""
    now, looks = [100.0], 0

    def look(self: detector.FailureDetector, come: Callable[[], bool]) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr("fsexchange.connector.detector.time.monotonic", lambda: now[0])
    monkeypatch.setattr(detector.FailureDetector, "_check", look)
    with Store(base_dir / "store") as store:
        hold = store.connector.directory
        for network, expected in (False, 9), (True, 1):
            monkeypatch.setattr(hold, "_policy", hold.policy._replace(network=network))
            looks = 0
            check = store.connector._detector.of_wait(lambda: False)
            for _ in range(100):
                check()
                now[0] += 0.1
            assert looks == expected
