"""OpenVINO on the CPU: what it can do here, and networks compiled by it.

A dependency of the product on x86, where it runs the same networks 1.5 to 6 times as fast as
PyTorch and ONNX Runtime do, in 180 MB beside PyTorch's 750. Elsewhere nobody has measured it: it is
used where somebody installs it. Without it everything works.

Its own `openvino.convert_model` tells Google Analytics of every conversion, so this goes through
the frontends that stand below it, which tell nobody.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.models.cores import Share

# Of each kind of layer, over all shapes of input. Measured on the recogniser, with lines of 60
# widths: 32 ms a line with 100 as with 1000, 34 with 0; 204 MB with 100, 269 with 1000, 389 with
# no limit.
_PREPARED = 100

log = logging.getLogger(__name__)

_core: Any = None


def installed() -> bool:
    """Say whether OpenVINO is installed. Imports nothing."""
    return importlib.util.find_spec("openvino") is not None


def version() -> str:
    """Return the installed version, e.g. ``2026.4.1``."""
    return importlib.metadata.version("openvino")


def core() -> Any:
    """Return the process's `openvino.Core`; imports openvino the first time."""
    global _core
    if _core is None:
        import openvino

        _core = openvino.Core()
    return _core


def precisions(wanted: str) -> list[str]:
    """Return which precisions to try, the fastest first.

    Args:
        wanted: ``exact``: f32 alone; ``auto``: bf16 before it where the CPU computes in it (AMX,
            AVX512-BF16), on others it would only be slower.
    """
    capable = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["bf16", "f32"] if wanted == "auto" and capable else ["f32"]


class Network:
    """A compiled network. May be called from several threads at once.

    Args:
        model: an `openvino.Model`, or the path of one in its own format or ONNX.
        precision: ``bf16`` or ``f32``; what goes in and comes out is as in `model`.
        share: how many inferences at once, and with how many threads each.
    """

    def __init__(self, model: Any, *, precision: str, share: Share) -> None:
        self.precision = precision
        if isinstance(model, Path):
            model = core().read_model(model)
        self._compiled: Any = core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": share.workers * share.threads,
                "NUM_STREAMS": share.workers,
                # What was prepared for a shape of input is kept for the next of that shape: no more
                # than is worth its memory. By default a mix of photos takes a gigabyte in the end.
                "CPU_RUNTIME_CACHE_CAPACITY": _PREPARED,
                # Others compute on this machine, too.
                "ENABLE_CPU_PINNING": False,
            },
        )
        # A request is one caller's at a time. Not thread-local: they hold the model's memory.
        self._requests: deque[Any] = deque()

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the (only) output for the (only) input."""
        try:
            request = self._requests.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            out = request.infer({0: values}, share_inputs=True, share_outputs=False)[0]
            return np.asarray(out, np.float32)
        finally:
            self._requests.append(request)
