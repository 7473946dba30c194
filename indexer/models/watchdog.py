"""How long one decoding or inference may take, and what becomes of one that hangs.

A thread can't be ended from outside. So whoever waits for it is told once the limit is over; and
if it isn't back soon after, the process is of no more use and has to be started anew.

A thread that hangs in native code and holds the interpreter's lock stops the watching thread, too.
That is seen from another process (`supervised`).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from indexer.models.types import TimeLimitError

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_GRACE_SECONDS = 10.0
_HEARTBEAT_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class Watched:
    """Something that runs; made by `Watchdog.watch`."""

    what: str
    photos: int
    give_up: Callable[[TimeLimitError], None]
    seconds: float = 0.0
    late: bool = False
    paused: bool = False

    @contextmanager
    def waiting_for(self, turn: AbstractContextManager[object]) -> Iterator[None]:
        """Enter a context; the time until it is entered is others' and doesn't count."""
        self.paused = True
        with turn:
            self.paused = False
            yield


class Watchdog:
    """Watches what runs, from a thread of its own that lives while there is anything to watch.

    Time is counted in this thread's own ticks: a process that was frozen (a suspended laptop,
    SIGSTOP) or starved hasn't used it up.

    Args:
        seconds: the limit.
        on_stuck: called once, from the watching thread, with a line that says what hangs.
    """

    def __init__(self, seconds: float, on_stuck: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._grace = min(_GRACE_SECONDS, seconds)
        self._tick = min(_TICK_SECONDS, seconds / 10)
        self._on_stuck = on_stuck
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._watching = False

    @contextmanager
    def watch(
        self, what: str, photos: int, give_up: Callable[[TimeLimitError], None]
    ) -> Iterator[Watched]:
        """Watch what runs inside the context.

        Args:
            what: names it, for the log and the error.
            photos: how many it works on at once.
            give_up: called from the watching thread when the limit is over.
        """
        mine = Watched(what, photos, give_up)
        with self._changed:
            self._watched.add(mine)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._work, name="watchdog", daemon=True).start()
        try:
            yield mine
        finally:
            with self._changed:
                self._watched.discard(mine)
                self._changed.notify_all()
            if mine.late:
                log.warning("%s has ended after all", what)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._watched, self._tick)
                if not self._watched:
                    self._watching = False
                    return
                for watched in self._watched:
                    watched.seconds += 0 if watched.paused else self._tick
                late = [w for w in self._watched if not w.late and w.seconds > self._seconds]
                stuck = [w for w in self._watched if w.seconds > self._seconds + self._grace]
                for watched in late:
                    watched.late = True
            for watched in late:
                error = TimeLimitError(
                    f"{watched.what} took longer than {self._seconds:g} s (MAX_IMAGE_SECONDS)",
                    alone=watched.photos == 1,
                )
                log.error("given up: %s, on %d photos", error, watched.photos)
                watched.give_up(error)
            if stuck:
                self._on_stuck(f"{stuck[0].what} hangs")
                return


@contextmanager
def supervised(seconds: float) -> Iterator[None]:
    """Have this process killed (SIGKILL) where no Python runs in it for so long.

    For service managers that start it anew: Docker's restart policy, systemd's. Where all threads
    are is written to standard error before, as ``kill -USR1`` writes it at any time.

    Args:
        seconds: more than any call into native code takes that holds the interpreter's lock:
            converting a large model can be minutes on a small machine.
    """
    if os.name != "posix":
        yield
        return
    faulthandler.register(signal.SIGUSR1)  # written in C: needs no lock
    program = str(Path(__file__).with_name("_supervisor.py"))
    supervisor = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-I", "-S", program, str(os.getpid()), f"{seconds:g}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is meant for us
    )
    ended = threading.Event()
    pipe = supervisor.stdin
    assert pipe is not None, "it was asked for"  # noqa: S101
    os.set_blocking(pipe.fileno(), False)

    def beat() -> None:
        while not ended.wait(min(_HEARTBEAT_SECONDS, seconds / 10)):
            try:
                os.write(pipe.fileno(), b".")
            except BlockingIOError:
                continue  # it is stopped, and the pipe full
            except OSError:
                log.warning("the supervisor has ended: a hang isn't noticed any more")
                return

    heart = threading.Thread(target=beat, name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            pipe.close()
        supervisor.wait()
