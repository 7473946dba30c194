"""What takes too long is given up; what hangs is reported once; what was frozen has time left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from indexer.models.types import TimeLimitError
from indexer.models.watchdog import Watchdog

PATIENCE = 30.0  # only for a test that would otherwise hang


def test_what_hangs_is_given_up_and_then_reported_once() -> None:
    late: list[TimeLimitError] = []
    stuck: list[str] = []
    reported = threading.Event()

    def report(what: str) -> None:
        stuck.append(what)
        reported.set()

    watchdog = Watchdog(0.1, report)
    with watchdog.watch("reading", 3, late.append):
        assert reported.wait(PATIENCE)
    assert str(late[0]) == "reading took longer than 0.1 s (MAX_IMAGE_SECONDS)"
    assert not late[0].alone
    assert len(late) == 1
    assert stuck == ["reading hangs"]


def test_what_comes_back_in_time_is_forgotten() -> None:
    given_up = threading.Event()
    stuck: list[str] = []
    watchdog = Watchdog(0.2, stuck.append)
    for _ in range(3):
        given_up.clear()
        with watchdog.watch("slow", 1, lambda _: given_up.set()):
            assert given_up.wait(PATIENCE)
        with watchdog.watch("quick", 1, lambda _: stuck.append("quick")):
            pass
    assert not stuck


def test_waiting_for_others_does_not_count() -> None:
    late: list[TimeLimitError] = []
    turn = threading.Lock()
    turn.acquire()
    threading.Timer(1.0, turn.release).start()
    watchdog = Watchdog(0.2, pytest.fail)
    with (
        watchdog.watch("decoding", 1, late.append) as watched,
        watched.waiting_for(turn),
    ):
        assert not late
    with watchdog.watch("decoding", 1, late.append) as watched, watched.waiting_for(turn):
        deadline = time.monotonic() + PATIENCE
        while not late:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_frozen_process_has_not_used_its_time_up() -> None:
    code = (
        "from indexer.models.watchdog import Watchdog\n"
        "with Watchdog(2.0, print).watch('frozen', 1, lambda late: print('given up')):\n"
        "    print('begun', flush=True)\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4.5)
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate("\n", timeout=PATIENCE)
    finally:
        process.kill()
    assert out == ""


def supervised_process(body: str, seconds: float) -> subprocess.Popen[str]:
    code = (
        "import ctypes, os, time\n"
        "from indexer.models.watchdog import supervised\n"
        f"with supervised({seconds}):\n"
        "    print('begun', flush=True)\n"
        f"    {body}\n"
        "print('ended', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_hang_that_holds_the_interpreter_ends_the_process_and_says_where() -> None:
    # PyDLL doesn't release the lock: no other thread of the process runs any more.
    with supervised_process("ctypes.PyDLL(None).sleep(600)", 2.0) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert out == ""
    assert f"process {process.pid} has been silent for 2 s" in err
    assert 'File "<string>", line 5 in <module>' in err


def test_a_long_call_that_lets_others_run_is_no_hang() -> None:
    with supervised_process("ctypes.CDLL(None).sleep(4)", 2.0) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "ended\n", "")


def test_a_process_that_was_stopped_is_not_ended_for_it() -> None:
    with supervised_process("input()", 2.0) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4.5)
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "ended\n", "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_the_supervisor_goes_with_the_process_however_it_ends() -> None:
    with supervised_process("input()", 60.0) as process:
        (supervisor,) = children(process.pid)
        process.kill()
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{supervisor}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
