"""Each contender lives in a process of its own: threads, memory and settings don't mingle."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_processes = multiprocessing.get_context("spawn")


class ContenderError(Exception):
    """It failed; the message is the traceback from its process."""


class Contender(Generic[T]):
    """An object in another process, whose methods are called from here.

    Args:
        make: builds it, there; a class or function of a module.
        arguments: for `make`.
    """

    def __init__(self, make: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(
            target=_serve, args=(theirs, make, arguments, named), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def call(
        self, method: Callable[Concatenate[T, P], R], *arguments: P.args, **named: P.kwargs
    ) -> R:
        """Call a method of the object, and wait for what it returns.

        Raises:
            ContenderError: whatever it raised.
        """
        self._pipe.send((method.__name__, arguments, named))
        result: R = self._answer()
        return result

    def peak_memory(self) -> int:
        """The most memory its process has had so far (resident), in bytes."""
        self._pipe.send((None, (), {}))
        peak: int = self._answer()
        return peak

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        try:
            failed, result = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise ContenderError(f"it ended, with code {self._process.exitcode}") from None
        if failed:
            raise ContenderError(result)
        return result


def _serve(pipe: Connection, make: Callable[..., Any], arguments: Any, named: Any) -> None:
    contender: Any = None
    try:
        contender = make(*arguments, **named)
        pipe.send((False, None))
        while True:
            method, arguments, named = pipe.recv()
            try:
                call = getattr(contender, method) if method else _peak_memory
                pipe.send((False, call(*arguments, **named)))
            except Exception:
                pipe.send((True, traceback.format_exc()))
    except EOFError:
        pass
    except Exception:
        pipe.send((True, traceback.format_exc()))
    finally:
        if hasattr(contender, "close"):
            contender.close()


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
