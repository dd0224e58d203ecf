"""The logger says what happens to stores, and nothing on the path of a verb."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from fsexchange import FileConnector, FileKey, Store

from .processes import python
from .test_life import end, owner, wait_to_own


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was told since the last call: level and words, without ids and paths."""
    assert {record.name for record in caplog.records} <= {"fsexchange"}
    found = []
    for record in caplog.records:
        text = re.sub(r" (the store [0-9a-f]{16} )?(at )?/\S+", "", record.getMessage())
        found.append(f"{record.levelname}: {text}")
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fsexchange")


def test_life_of_a_store(base_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(base_dir / "store") as store:
        assert told(caplog) == ["INFO: made"]
        attached = Store(base_dir / "store")
        FileConnector.from_config(store.connector.config())
        assert told(caplog) == ["DEBUG: attached to"] * 2
        attached.close()
        assert told(caplog) == []
    assert told(caplog) == ["INFO: cleared"]


def test_messages_name_the_store(base_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(base_dir / "store") as store:
        (message,) = caplog.messages
        assert message == f"made the store {store.store_id} at {base_dir}/store"


def test_store_that_is_kept(base_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    FileConnector(base_dir / "store").close(clear=False)
    assert told(caplog) == ["INFO: made", "INFO: kept"]
    FileConnector(base_dir / "store", clear=False).close(clear=False)
    assert told(caplog) == ["DEBUG: attached to"]
    FileConnector(base_dir / "store").close(clear=True)
    assert told(caplog) == ["DEBUG: attached to", "INFO: cleared"]


def test_store_that_is_adopted(base_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    process, _ = owner(base_dir / "store")
    end(process)
    wait_to_own(base_dir / "store").close()
    adopted, cleared = told(caplog)[-2:]
    assert re.fullmatch(r"INFO: adopted from process [0-9]+ on \S+", adopted)
    assert cleared == "INFO: cleared"


def test_default_stores_that_are_swept(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FSEXCHANGE_DIR", str(base_dir))
    process, _ = owner(base_dir / f"fsexchange-{16 * '0'}")
    end(process)
    Store().close()
    cleared, swept, *rest = told(caplog)
    assert cleared == "INFO: cleared"
    assert re.fullmatch(r"INFO: swept which process [0-9]+ on \S+ had left", swept), swept
    assert rest == ["INFO: made", "INFO: cleared"]


def test_verbs_are_silent(base_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(base_dir / "store", cache=1000) as store:
        told(caplog)
        key = store.put([1], name="x", replace=True)
        keys = store.put_batch([1, 2, 3])
        store.get(key), store.get("x"), store.get_batch(keys)
        future = store.future()
        future.set_result(1)
        future.result()
        store.exists(FileKey("none"))
        store.evict_batch(keys)
        store.evict("x")
        assert told(caplog) == []


def test_nothing_is_printed_unless_asked_for(shm_dir: Path) -> None:
    """Python prints warnings and errors of loggers that nobody has set up."""
    done = python("open_and_close", shm_dir / "store", "3", check=False)
    assert done.stderr == "", done.stderr
    assert not os.listdir(shm_dir)
