"""What takes too long is given up; what hangs is reported once; what was frozen has time left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

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
