"""How many cores there are for us, and who computes on which."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from indexer.models import cores
from indexer.models.cores import Budget, Share

PATIENCE = 30.0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /sys and /proc, with 8 cores, without hyperthreads and limits."""
    monkeypatch.setattr(cores, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_CPUS", tmp_path / "cpu")
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_of_them(machine: Path) -> None:
    assert cores.available() == 8


def test_only_those_it_is_bound_to(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5}, raising=False)
    assert cores.available() == 3


def test_second_threads_of_a_core_don_t_count(machine: Path) -> None:
    for cpu in range(8):
        siblings = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(machine / f"cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert cores.available() == 4


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max 100000"}, 8),
        ({"": "200000 100000"}, 2),
        ({"": "150000 100000"}, 2),  # half a core more is worth a thread
        ({"": "1000 100000"}, 1),
        ({"": "max 100000", "a": "400000 100000", "a/b": "300000 100000"}, 3),
        ({"a": "100000 100000", "a/b": "300000 100000"}, 1),  # what is above counts, too
        ({"": "3200000 100000"}, 8),
        ({"": "nonsense"}, 8),
    ],
)
def test_a_container_s_quota(machine: Path, limits: dict[str, str], expected: int) -> None:
    write(machine / "own", "0::/a/b\n")
    for group, limit in limits.items():
        write(machine / "cgroup" / group / "cpu.max", limit + "\n")
    assert cores.available() == expected


def test_a_quota_whose_group_is_named_as_the_host_sees_it(machine: Path) -> None:
    write(machine / "own", "0::/docker/0123456789abcdef\n")
    write(machine / "cgroup/cpu.max", "200000 100000\n")
    assert cores.available() == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3)])
def test_cgroups_of_version_1(machine: Path, quota: str, expected: int) -> None:
    write(machine / "own", "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/x\n")
    write(machine / "cgroup/cpu/cpu.cfs_quota_us", quota + "\n")
    write(machine / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cores.available() == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, Share(1, 1)),
        (2, Share(2, 1)),
        (4, Share(2, 2)),
        (6, Share(2, 3)),
        (8, Share(2, 4)),
        (32, Share(8, 4)),
    ],
)
def test_shares_use_the_cores_and_no_more(count: int, expected: Share) -> None:
    assert cores.share(count) == expected
    assert expected.workers * expected.threads <= count


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, Share(1, 1)),
        (2, Share(1, 2)),
        (4, Share(1, 4)),
        (6, Share(1, 4)),
        (8, Share(2, 4)),
        (32, Share(8, 4)),
    ],
)
def test_a_lone_picture_gets_several_cores(count: int, expected: Share) -> None:
    assert cores.wide_share(count) == expected
    assert expected.workers * expected.threads <= count


def test_cores_are_lent_in_the_order_they_were_asked_for() -> None:
    lent = Budget(4)
    order: list[int] = []
    took: list[threading.Thread] = []

    def take(i: int, wanted: int) -> None:
        with lent.take(wanted):
            order.append(i)

    with lent.take(4):
        for i, wanted in enumerate((4, 1, 9, 2)):  # nine: all there are
            thread = threading.Thread(target=take, args=(i, wanted))
            thread.start()
            took.append(thread)
            while len(lent._waiting) <= i:  # until it stands in the queue
                pass
        assert order == []
    for thread in took:
        thread.join(PATIENCE)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2, 3]
    assert order.index(1) < order.index(2) < order.index(3)


def test_as_many_at_once_as_there_are_cores_for() -> None:
    lent = Budget(4)
    inside = threading.Barrier(2)

    def take() -> None:
        with lent.take(2):
            inside.wait(PATIENCE)

    pair = [threading.Thread(target=take) for _ in range(2)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join(PATIENCE)
    assert not inside.broken
    assert lent._free == 4


def test_what_fails_gives_its_cores_back() -> None:
    lent = Budget(2)
    with pytest.raises(ValueError, match="thirteen"), lent.take(2):
        raise ValueError("thirteen")
    assert lent._free == 2


@pytest.mark.parametrize(
    ("count", "expected"), [(1, Share(1, 1)), (2, Share(1, 2)), (4, Share(1, 4)), (32, Share(1, 4))]
)
def test_a_person_s_text_gets_several_cores(count: int, expected: Share) -> None:
    assert cores.share_of_texts(count) == expected
