"""What goes into the models and what comes out of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


class ImageError(Exception):
    """These bytes can't be indexed, and trying again won't help. The message is for people."""


class ModelUnavailable(Exception):  # noqa: N818 - a state, not a fault of the caller
    """A model can't be loaded here; the message says which file to put where."""


class TimeLimitError(Exception):
    """Took longer than MAX_IMAGE_SECONDS.

    Attributes:
        alone: False where it was one of several photos, and which of them it was isn't known.
    """

    def __init__(self, message: str, *, alone: bool = True) -> None:
        super().__init__(message)
        self.alone = alone


class Lane(enum.IntEnum):
    """Who is waiting. Interactive work goes ahead of bulk work at the next batch."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class OcrOptions:
    """How to read an image.

    Attributes:
        min_box_score: text boxes that score less are dropped, 0..1.
        min_text_score: lines that score less are dropped, 0..1.
        max_resolution: short side in pixels that the detector works at (Immich's
            ``maxResolution``); the image is never enlarged for it beyond the detector's needs.
    """

    min_box_score: float = 0.5
    min_text_score: float = 0.5
    max_resolution: int = 736


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text found in an image.

    Attributes:
        text: what was read, not normalised.
        box: four corners, clockwise from top left of the text: x1, y1, … x4, y4, each
            relative to the upright image's width or height (0..1).
        box_score: how sure the detector is, 0..1.
        text_score: how sure the recogniser is, 0..1.
    """

    text: str
    box: tuple[float, float, float, float, float, float, float, float]
    box_score: float
    text_score: float


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """The CLIP model that is served.

    Attributes:
        name: cn-clip's name (``ViT-B-16`` …) or ``stand-in``.
        dim: length of its embeddings.
        resolution: side, in pixels, of the square image it takes.
    """

    name: str
    dim: int
    resolution: int


@dataclass(frozen=True, slots=True)
class FaceOptions:
    """How to look for faces.

    Attributes:
        pack: InsightFace's name of a detector and a recogniser that belong together.
        min_score: faces that score less are dropped, 0..1.
    """

    pack: str = "buffalo_l"
    min_score: float = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face found in an image.

    Attributes:
        x1, y1, x2, y2: its box, in whole pixels of the upright image; may reach beyond it.
        score: how sure the detector is, 0..1.
        embedding: (512,) float32, as the recogniser gives it: of no particular length.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    score: float
    embedding: npt.NDArray[np.float32]


Embedding = npt.NDArray[np.float32]
"""A CLIP embedding, shape (dim,), float32, of length 1."""

Embeddings = npt.NDArray[np.float32]
"""CLIP embeddings, shape (n, dim), float32."""

Side = Literal["image", "text"]
"""Of a CLIP model: what embeds pictures, and what embeds texts."""

Pixels = npt.NDArray[np.uint8]
"""An image, shape (height, width, 3), uint8."""
