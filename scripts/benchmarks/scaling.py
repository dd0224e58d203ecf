"""How counts grow with ranks and hosts, and what time they come to on large machines."""

import itertools
import math
import re
from collections import Counter

import numpy as np

#: Bytes of a small object, which is a number or a block of so many bytes, of a large one, and above
#: which an object is large.
SMALL, OBJECT, LIMIT = 8, 2 << 20, 1 << 20

PAGE = 4096  # to whole ones the messages of large objects are rounded up

#: What is counted in one call of a verb. A message is what one rank gets from one other, whatever
#: tree MPI makes of a collective.
FIGURES = {
    "server calls": "creates, opens, unlinks and the like below the directory of the store",
    "server calls of a rank": "those of the busiest rank",
    "bytes written": "to the file server",
    "bytes read": "from it, by read(2); what is mapped is not counted",
    "host calls": "memfd_create, opens of it and mmaps, on the busiest host",
    "host bytes": "of memory that ranks share, on the busiest host",
    "messages": "of MPI",
    "message bytes": "of all messages",
    "bytes between hosts": "that the busiest host gets from others or sends to them",
    "MPI calls": "that move data, of the busiest rank",
    "objects held": "large ones, by the busiest host for results (PSS); not told of files of the "
    "store on several hosts, of which this machine has one copy",
}

# Published rates. Lustre: mdtest of one old installation, 504 creates/s from one client thread and
# 15 k/s from 240. NFS of 64 MiB: 154 MB/s written, 46 read. Memory: writev of 256 MiB takes 61 ms,
# a create in tmpfs 11 us; both medians on a virtual machine with two cores.
CALLS_OF_ALL, CALLS_OF_ONE = 15_000, 504
WRITTEN, READ = 154e6, 46e6
HOST_BYTES, HOST_CALL = (256 << 20) / 61e-3, 11e-6
# OSU MPI Latency Test v5.3.2 between two nodes of a Cray at Los Alamos (2016), by Howard Pritchard:
# 1.46 us, and 434 us for 4 MiB. gist.github.com/hppritcha/6a3acd0c192fcfd082bd543fc98e6fe6
LATENCY, BANDWIDTH = 1.46e-6, (4 << 20) / 434e-6

RATES = (
    "file server: Lustre mdtest, 15,000 creates/s in all and 504 of one client; NFS, 154 MB/s "
    "written and 46 read; memory: 4.4 GB/s, 11 us a call; MPI: OSU latency between two nodes of a "
    "Cray, 1.46 us, 4 MiB in 434 us"
)

# Calls that a client can answer for a file that it has open, or that move data.
BY_DESCRIPTOR = re.compile("p?(read|write).*|close|mmap|fstat|lseek|fcntl").fullmatch

# ---- what strace and the worker say --------------------------------------------------------------


def calls_of(log, folder):
    """Return for each verb of one rank: its name, bytes of an object, host, and counts of calls."""
    found, counts = [], None
    for line in log.splitlines():
        mark = re.match(r'access\("/begin (\w+) (\d+) (\d+)"', line)
        if mark:
            counts = Counter()
            found.append((mark[1], int(mark[2]), int(mark[3]), counts))
        elif line.startswith('access("/end"'):
            counts = None
        elif counts is not None:
            name, result = line.split("(", 1)[0], re.search(r"= (\d+)", line.rsplit(")", 1)[-1])
            moved = int(result[1]) if result else 0
            if folder in line:
                # newfstatat with an empty path is fstat
                counts["server calls"] += not BY_DESCRIPTOR(name) and ', "", ' not in line
                if "write" in name:
                    counts["bytes written"] += moved
                elif "read" in name and "link" not in name:
                    counts["bytes read"] += moved
            elif name == "ftruncate" and "memfd:" in line:
                counts["host bytes"] += int(re.search(r", (\d+)\)", line)[1])
            elif name == "memfd_create" or re.search(r'open.*"/proc/\d+/fd/|mmap.*memfd:', line):
                counts["host calls"] += 1
    return found


def figures_of(lines, logs, folder, near):
    """Return the figures of each verb and size in a job with so many ranks on each host.

    Of a file of the store `objects held` are None, unless there is one host.
    """
    found = {}
    of_hosts = {}
    for name, nbytes, host, counts in itertools.chain(*[calls_of(log, folder) for log in logs]):
        figures = found.setdefault((name, nbytes), Counter(dict.fromkeys(FIGURES, 0)))
        of_hosts.setdefault((name, nbytes), {}).setdefault(host, Counter()).update(counts)
        for each in ("server calls", "bytes written", "bytes read"):
            figures[each] += counts[each]
        figures["server calls of a rank"] = max(
            figures["server calls of a rank"], counts["server calls"]
        )
    for name, nbytes, received, calls, grown in lines:
        figures = found[name, nbytes]
        for each in ("host calls", "host bytes"):
            figures[each] = max(counts[each] for counts in of_hosts[name, nbytes].values())
        to, of = Counter(), Counter()
        for rank, pieces in enumerate(received):
            for (verb, length, source), count in pieces:
                figures["messages"] += count
                figures["message bytes"] += count * length
                if rank // near != source // near:
                    to[rank // near] += count * length
                    if verb.lstrip("I").lower() not in ("bcast", "allgather", "allgatherv"):
                        of[source // near] += count * length  # no other rank passes it on
        figures["bytes between hosts"] = max([0, *to.values(), *of.values()])
        figures["MPI calls"] = max(calls)
        if nbytes == OBJECT:
            hosts = [sum(grown[n : n + near]) for n in range(0, len(grown), near)]
            figures["objects held"] = round(max(hosts) / (OBJECT + PAGE))
            if len(hosts) > 1 and figures["server calls"]:
                figures["objects held"] = None
    return found


# ---- formulas ------------------------------------------------------------------------------------

TERMS = {
    "": lambda n, h: 1,
    "n": lambda n, h: n,
    "h": lambda n, h: h,
    "n/h": lambda n, h: n / h,
    "n^2": lambda n, h: n * n,
    "nh": lambda n, h: n * h,
    "h^2": lambda n, h: h * h,
    "n^2/h": lambda n, h: n * n / h,
    "(n/h)^2": lambda n, h: (n / h) ** 2,
}


def formula(points):
    """Return the shortest sum of terms that all points {(n, h): figure} fit exactly; None if none.

    It is a dict of whole factors of `TERMS`.
    """
    if None in points.values():
        return None
    values = np.array([*points.values()], float)
    names = [name for name in TERMS if any(h > 1 for _, h in points) or "h" not in name]
    for count in range(min(5, len(points))):
        for some in itertools.combinations(names, count):
            rows = np.array([[TERMS[name](*point) for name in some] for point in points], float)
            factors = np.rint(np.linalg.lstsq(rows, values, rcond=None)[0]) if some else []
            if np.array_equal(rows @ factors if some else 0 * values, values):
                return {name: int(each) for name, each in zip(some, factors, strict=True)}
    return None


def written(factors):
    """Return a formula as people write it."""
    if factors is None:
        return "?"
    said = ""
    for name, each in reversed(factors.items()):
        factor = "" if abs(each) == 1 and name else f"{abs(each)}"
        said += f" {'-' if each < 0 else '+'} {factor}{' ' if factor and name else ''}{name}"
    return said.strip().removeprefix("+ ") or "0"


def at(factors, n, h):
    """Return the figure that a formula predicts."""
    if factors is None:
        return None
    return round(sum(each * TERMS[name](n, h) for name, each in factors.items()))


def seconds(figures, n, h):
    """Return the seconds of a call under the published rates; None without a formula."""
    if any(value is None for name, value in figures.items() if name != "objects held"):
        return None
    server = max(
        figures["server calls"] / CALLS_OF_ALL, figures["server calls of a rank"] / CALLS_OF_ONE
    )
    server += figures["bytes written"] / WRITTEN + figures["bytes read"] / READ
    host = figures["host bytes"] / HOST_BYTES + figures["host calls"] * h / n * HOST_CALL
    moved = figures["MPI calls"] * math.ceil(math.log2(n)) * LATENCY
    return server + host + moved + figures["bytes between hosts"] / BANDWIDTH
