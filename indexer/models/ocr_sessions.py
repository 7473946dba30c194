"""What computes RapidOCR's two networks: ONNX Runtime (CPU, CUDA) or OpenVINO (CPU).

RapidOCR asks for a callable that takes an array and returns a list with one; these are such.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.models.cores import Share
from indexer.models.openvino_cpu import Network

# Lines are padded to a multiple of this, as RapidOCR pads those of a batch to the longest:
# OpenVINO prepares for every shape anew, and keeps what it has prepared.
_WIDTH_STEP = 32

log = logging.getLogger(__name__)

Session = Callable[[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]]


class Shares(NamedTuple):
    """How each of the networks uses the cores."""

    detector: Share
    recogniser: Share


class Sessions(NamedTuple):
    """The detector and the recogniser, ready to compute; each may be called from several threads.

    Attributes:
        kind: what computes, and in which precision, for people.
    """

    detect: Session
    recognise: Session
    on_cpu: bool
    kind: str


def has_cuda() -> bool:
    """Say whether this ONNX Runtime can compute on NVIDIA GPUs."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def with_onnxruntime(
    detector: Path, recogniser: Path, shares: Shares, *, cuda: int | None
) -> Sessions:
    """Load both networks in ONNX Runtime, f32.

    Args:
        cuda: number of the GPU; None for the CPU. Where its libraries are missing, the CPU
            computes, with a warning.
    """
    detect = _onnx_session(detector, shares.detector, cuda)
    recognise = _onnx_session(recogniser, shares.recogniser, cuda)
    on_gpu = detect.get_providers()[0] == "CUDAExecutionProvider"
    if cuda is not None and not on_gpu:
        log.warning("CUDA can't be loaded by ONNX Runtime: OCR runs on the CPU")
    where = "CUDA" if on_gpu else "CPU"
    return Sessions(_run(detect), _run(recognise), not on_gpu, f"ONNX Runtime {where} f32")


def with_openvino(detector: Path, recogniser: Path, shares: Shares, *, precision: str) -> Sessions:
    """Compile both networks with OpenVINO.

    Args:
        precision: ``bf16`` or ``f32``.
    """
    detect = Network(detector, precision=precision, share=shares.detector)
    recognise = Network(recogniser, precision=precision, share=shares.recogniser)
    return Sessions(
        lambda values: [detect(values)],
        lambda values: [recognise(_widened(values))],
        True,
        f"OpenVINO {precision}",
    )


def _onnx_session(path: Path, share: Share, cuda: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = share.threads
    # As RapidOCR: an arena keeps the most that the largest image ever needed.
    options.enable_cpu_mem_arena = False
    # Others compute meanwhile on the cores that would be spun on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda is not None:
        gpu = {
            "device_id": cuda,
            "arena_extend_strategy": "kSameAsRequested",
            # RapidOCR's EXHAUSTIVE tries every algorithm for every new shape of image.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        providers.insert(0, ("CUDAExecutionProvider", gpu))
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)


def _run(session: Any) -> Session:
    name = session.get_inputs()[0].name

    def run(values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        outputs: list[npt.NDArray[np.float32]] = session.run(None, {name: values})
        return outputs

    return run


def _widened(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    more = -values.shape[-1] % _WIDTH_STEP
    return np.pad(values, ((0, 0), (0, 0), (0, 0), (0, more))) if more else values
