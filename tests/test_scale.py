"""What scripts/scale counts for each collective, and how it says that grows."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from typing import Any, TypeAlias

import pytest

from .jobs import needs_mpi
from .processes import ROOT, strace

VERBS = ["bcast", "gather", "allgather", "scatter", "alltoall", "assemble"]

#: What is counted, by the way that objects take, the verb, and "small" or "large".
Rows: TypeAlias = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    strace()  # without it there is nothing to count
    command = [sys.executable, "scripts/scale.py", "--json", "--ranks", "2,4", "--hosts", "1,2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    return {(row["way"], row["verb"], row["object"]): row for row in rows}


@needs_mpi
@pytest.mark.wide
@pytest.mark.timeout(360)
def test_no_call_at_the_file_server(rows: Rows) -> None:
    """And in memory one file a host, which each rank of it opens and maps once."""
    assert len(rows) == 2 * len(VERBS) * 2
    for verb in VERBS:
        for count in rows["memory", verb, "small"]["measured"]:
            assert count["server calls"] == 0, (verb, count)
            assert verb == "assemble" or count["host calls"] == 0, (verb, count)
        for count in rows["memory", verb, "large"]["measured"]:
            n, hosts = count["ranks"], count["hosts"]
            near = n // hosts
            assert count["server calls"] == 0, (verb, count)
            # A create, an open by each rank, a mapping of all by each that fills parts while
            # others do or passes parts on, and the results.
            mapped = {"bcast": hosts > 1, "gather": near - 1}.get(verb, near)
            calls = 1 + near + mapped + (1 if verb == "gather" else near)
            by_mpi = verb in ("scatter", "alltoall")
            assert count["host calls"] == (0 if by_mpi else calls), (verb, count)
            held = {"bcast": 1, "alltoall": near * n, "scatter": near}
            assert count["objects held"] == held.get(verb, n), (verb, count)
            # What a host gets from others or sends to them, once.
            far = n - near
            data = {"bcast": hosts > 1, "alltoall": near * far}.get(verb, far) * (2 << 20)
            assert data <= count["bytes between hosts"] <= 1.01 * data + 10_000, (verb, count)


@needs_mpi
@pytest.mark.wide
@pytest.mark.timeout(360)
@pytest.mark.parametrize("verb", VERBS)
def test_files_of_the_store(verb: str, rows: Rows) -> None:
    """Where memory does not suffice, large objects go by one file, or one a host.

    What only one rank asks for once weighs too much where there are two.
    """
    for count in rows["store", verb, "large"]["measured"]:
        assert count["host calls"] == 0, count
        if count["ranks"] == 2:
            continue
        most = 0 if verb in ("scatter", "alltoall") else 4 * count["ranks"] + count["hosts"] ** 2
        assert (most > 0) <= count["server calls"] <= most, count


def test_formulas() -> None:
    """The shortest that fits all points exactly, and none where several would."""
    scaling = runpy.run_path(str(ROOT / "scripts" / "benchmarks" / "scaling.py"))
    formula, written, at = scaling["formula"], scaling["written"], scaling["at"]
    points = [(n, h) for n in (4, 8, 12, 16) for h in (2, 4, 8) if n % h == 0 and n >= 2 * h]
    figures = {
        "0": lambda n, h: 0,
        "7": lambda n, h: 7,
        "n - 1": lambda n, h: n - 1,
        "n^2 - n": lambda n, h: n * (n - 1),
        "2 n/h + h": lambda n, h: h + 2 * n // h,
        "(n/h)^2 + 81 nh + 4224": lambda n, h: 4224 + 81 * n * h + (n // h) ** 2,
    }
    for said, figure in figures.items():
        found = formula({point: figure(*point) for point in points})
        assert written(found) == said
        assert at(found, 16384, 256) == figure(16384, 256)
    assert formula({point: 3 ** point[0] for point in points}) is None
    assert formula({(4, 2): 5, (8, 2): 9}) is None
