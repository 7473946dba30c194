"""InsightFace's detector and recogniser → faces with boxes, scores and embeddings.

Loaded by InsightFace itself (``FaceAnalysis``), which tells the models in a folder by their inputs
and outputs. What is asked of them is what Immich's ``machine-learning/immich_ml/models/
facial_recognition`` asks: a detector at 640 x 640 pixels, faces aligned to the ArcFace template,
embeddings as the recogniser gives them. So faces found by either can be compared.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from indexer.models.images import Photo
from indexer.models.types import Face, FaceOptions, ModelUnavailable
from indexer.settings import Settings

# Immich's choice of packs, and of each the files that are used: detector and recogniser.
PACKS = MappingProxyType(
    {
        "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx"),
        "buffalo_m": ("det_2.5g.onnx", "w600k_r50.onnx"),
        "buffalo_s": ("det_500m.onnx", "w600k_mbf.onnx"),
        "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
    }
)
# Length of all their embeddings.
DIM = 512

_SOURCE = "https://github.com/deepinsight/insightface/releases"
_DETECTOR_SIZE = (640, 640)
_CROPS_AT_ONCE = 16

log = logging.getLogger(__name__)


class FaceFinder:
    """Finds faces with the pack that was last asked for. One call at a time."""

    def __init__(self, settings: Settings, threads: int) -> None:
        """Load nothing yet.

        Args:
            threads: for one computation on the CPU.
        """
        self._home = settings.insightface_home.expanduser()
        self._device = settings.device
        self._threads = threads
        self._loaded: tuple[str, Any] | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether the models run on the CPU, be it that onnxruntime has no CUDA."""
        return self._providers == ["CPUExecutionProvider"]

    def problem(self, pack: str) -> str | None:
        """Say why a pack can't be used and what to do about it; None when it can be loaded."""
        if importlib.util.find_spec("insightface") is None:
            return "InsightFace isn't installed: pip install '.[faces]'"
        missing = [name for name in PACKS[pack] if not (self._folder(pack) / name).is_file()]
        if missing:
            return (
                f"Face models {pack}: put {' and '.join(missing)} into {self._folder(pack)} "
                f"(INSIGHTFACE_HOME). They are in {pack}.zip at {_SOURCE}, for non-commercial use "
                "unless you have another licence."
            )
        return None

    def find(self, photo: Photo, options: FaceOptions) -> list[Face]:
        """Find the faces in a photo, the surest first.

        Raises:
            ModelUnavailable: with what `problem` says, or why the files can't be loaded.
        """
        models = self._get(options.pack)
        from insightface.utils import face_align

        detector, recogniser = models["detection"], models["recognition"]
        detector.det_thresh = options.min_score
        image = cv2.cvtColor(np.asarray(photo.image), cv2.COLOR_RGB2BGR)
        boxes, landmarks = detector.detect(image)
        crops = [face_align.norm_crop(image, points) for points in landmarks]
        embeddings = [
            embedding
            for start in range(0, len(crops), _CROPS_AT_ONCE)
            for embedding in recogniser.get_feat(crops[start : start + _CROPS_AT_ONCE])
        ]
        # Of the whole image, which may have been shrunk for decoding.
        scale = np.tile([photo.width / photo.image.width, photo.height / photo.image.height], 2)
        corners = (boxes[:, :4] * scale).round().astype(int).tolist()
        return [
            Face(x1, y1, x2, y2, float(score), embedding)
            for (x1, y1, x2, y2), score, embedding in zip(
                corners, boxes[:, 4], embeddings, strict=True
            )
        ]

    def _get(self, pack: str) -> Any:
        if self._loaded is None or self._loaded[0] != pack:
            if (problem := self.problem(pack)) is not None:
                raise ModelUnavailable(problem)
            self._loaded = None  # before the next one is loaded: rather not both in memory
            self._loaded = pack, self._load(pack)
        return self._loaded[1]

    def _load(self, pack: str) -> Any:
        """InsightFace's models by task: ``detection`` and ``recognition``."""
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        try:
            # A folder, not a name: names are downloaded, unverified.
            analysis = FaceAnalysis(
                str(self._folder(pack)),
                allowed_modules=["detection", "recognition"],
                providers=self._providers,
                sess_options=options,
            )
            analysis.prepare(ctx_id=0, det_size=_DETECTOR_SIZE)
        except Exception as error:
            raise ModelUnavailable(
                f"Face models {pack} can't be loaded ({' '.join(str(error).split())}): put whole "
                f"files into {self._folder(pack)}"
            ) from error
        if "recognition" not in analysis.models:
            raise ModelUnavailable(
                f"Face models {pack}: {PACKS[pack][1]} in {self._folder(pack)} is no recogniser"
            )
        log.info("loaded face models %s on %s", pack, "the CPU" if self.on_cpu else "CUDA")
        return analysis.models

    @property
    def _providers(self) -> list[str]:
        import onnxruntime

        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        wanted = ["CUDAExecutionProvider"] if cuda and self._device != "cpu" else []
        return [*wanted, "CPUExecutionProvider"]

    def _folder(self, pack: str) -> Path:
        return self._home / "models" / pack
