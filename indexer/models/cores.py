"""How many cores there are for us, and who computes on which."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Networks of this size gain little from more threads on one input.
MOST_THREADS = 4

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


class Share(NamedTuple):
    """How one model uses the cores: so many inferences at once, each with so many threads."""

    workers: int
    threads: int


def share(cores: int) -> Share:
    """Split the cores among inferences that run at once.

    Several inputs side by side waste less than several threads on one input, and what is Python
    in one (cutting out lines, decoding characters) runs while another computes.
    """
    threads = max(1, min(MOST_THREADS, cores // 2))
    return Share(max(1, cores // threads), threads)


def wide_share(cores: int) -> Share:
    """Split the cores among few inferences, each with all the threads that it gains from.

    Large networks waste little with several threads, and a photo that comes alone, as a client's
    requests do, has all of them.
    """
    threads = min(MOST_THREADS, cores)
    return Share(max(1, cores // threads), threads)


def share_of_texts(cores: int) -> Share:
    """One batch of texts at a time, with several threads: a person waits for it."""
    return Share(1, min(MOST_THREADS, cores))


def available() -> int:
    """Count the cores that this process may use.

    That is the least of: the machine's, without their second hardware threads; those it is bound
    to (taskset, ``cpuset``); what a container's CPU quota amounts to, rounded up.
    """
    if hasattr(os, "sched_getaffinity"):
        bound_to = os.sched_getaffinity(0)
        count = len({_siblings(cpu) for cpu in bound_to})
    else:
        count = os.cpu_count() or 1
    allowed = quota()
    return count if math.isinf(allowed) else max(1, min(count, math.ceil(allowed)))


def quota() -> float:
    """Return what cgroups allow this process, in cores; infinity where there is no limit.

    Of version 2 (``cpu.max`` of the process's group and of all above it) and version 1.
    """
    least = math.inf
    for folder in _groups():
        try:
            if (limit := folder / "cpu.max").exists():
                allowed, period = limit.read_text().split()
            else:
                allowed = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text()
            if allowed not in ("max", "-1"):
                least = min(least, int(allowed) / int(period))
        except (OSError, ValueError):
            continue
    return least


def _groups() -> Iterator[Path]:
    """Folders of this process's cgroup and of all above it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUP / "cpu" if controllers else _CGROUP
        # Inside a container the path can be the host's: then only the root is there.
        group = root / path.lstrip("/")
        yield group
        yield from (above for above in group.parents if above.is_relative_to(root))


def _siblings(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


class Budget:
    """So many of something (cores, pixels), lent to those who ask, in the order they asked.

    `threading.Semaphore` promises no order, and lends one at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @contextmanager
    def take(self, wanted: int) -> Iterator[None]:
        """Hold `wanted` of them (or all, if that is fewer)."""
        wanted = min(wanted, self.count)
        mine = threading.Event()
        with self._lock:
            self._waiting.append((wanted, mine))
            self._lend()
        mine.wait()
        try:
            yield
        finally:
            with self._lock:
                self._free += wanted
                self._lend()

    def _lend(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, whose = self._waiting.popleft()
            self._free -= wanted
            whose.set()
