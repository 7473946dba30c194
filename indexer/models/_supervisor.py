"""Ends a process that has gone silent; `watchdog.supervised` starts it, as a process of its own.

Standard library alone, run by path with ``python -I -S``: it is small, and imports nothing of ours.

    _supervisor.py PID SECONDS < heartbeats
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

_TICK_SECONDS = 1.0
_LAST_WORDS_SECONDS = 1.0


def main() -> None:
    """Wait for silence, or for the end of the process.

    Time is counted in this process's own ticks, and not while the other is stopped: a laptop that
    was suspended, a container that was paused haven't used it up.
    """
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    tick = min(_TICK_SECONDS, seconds / 10)
    silent = 0.0
    while silent < seconds:
        heard, _, _ = select.select([0], [], [], tick)
        if heard:
            if not os.read(0, 4096):
                return  # it has ended, or started anew
            silent = 0.0
        elif not _is_stopped(pid):
            silent += tick
    sys.stderr.write(
        f"immich-indexer: process {pid} has been silent for {seconds:g} s: one of its threads "
        "holds the interpreter. This is where; then it is killed, to be started anew.\n"
    )
    sys.stderr.flush()
    os.kill(pid, signal.SIGUSR1)
    time.sleep(_LAST_WORDS_SECONDS)
    os.kill(pid, signal.SIGKILL)


def _is_stopped(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False  # macOS has no such file
    return state in "Tt"


if __name__ == "__main__":
    main()
