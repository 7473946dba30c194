"""Where lines of text are on a picture: corners, crops, reading order. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from indexer.models.types import Pixels

Box = npt.NDArray[np.float32]
"""Four corners, shape (4, 2), x and y in pixels, clockwise."""

# RapidOCR's rule: a crop this much higher than wide holds text that runs downwards or upwards.
TALL = 1.5

# Text tilted further than this from the horizontal counts as running downwards.
_STEEP = np.cos(np.radians(60))


def from_top_left(corners: Box) -> Box:
    """Order a rectangle's corners clockwise from the top left of the text that fits it.

    Text runs along the long side, to the right. Where that is steep, and where the box is nearly
    square, the corner nearest to the image's own top left comes first.
    """
    middle = corners.mean(axis=0)
    angles = np.arctan2(corners[:, 1] - middle[1], corners[:, 0] - middle[0])
    box = corners[np.argsort(angles)]
    edges = np.roll(box, -1, axis=0) - box
    lengths = np.maximum(np.linalg.norm(edges, axis=1), 1e-6)
    rightwards = edges[:, 0] / lengths
    long = lengths > lengths.mean()
    if lengths.max() >= TALL * lengths.min():
        steep = np.abs(rightwards[long]).max() < _STEEP
        rightwards = np.where(long == steep, -2, rightwards)
    return np.roll(box, -int(rightwards.argmax()), axis=0)


def size(box: Box) -> tuple[int, int]:
    """Return width (along the text) and height of a box, in whole pixels."""
    right, down, left, up = np.linalg.norm(np.roll(box, -1, axis=0) - box, axis=1)
    return int(max(right, left)), int(max(down, up))


def tilt(box: Box) -> float:
    """How far a box is from level or upright: 0 for both, 1 at 45 degrees between them."""
    along, down = box[1] - box[0], box[3] - box[0]
    x, y = along if np.linalg.norm(along) >= np.linalg.norm(down) else down
    return float(abs(np.sin(2 * np.arctan2(y, x))))


def cut_out(image: Pixels, box: Box) -> Pixels:
    """Cut a box out of an image, levelled."""
    width, height = size(box)
    level = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return np.asarray(
        cv2.warpPerspective(
            image,
            cv2.getPerspectiveTransform(box, level),
            (width, height),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.uint8,
    )


def reading_order(
    boxes: Sequence[Box], directions: Sequence[npt.NDArray[np.float32]], weights: Sequence[float]
) -> list[int]:
    """Sort lines as they are read: row after row, along each row.

    Rows run the way most of the text runs, so a page upside down, on its side or tilted comes
    out in order, and so do columns of vertical Chinese (downwards, from right to left).

    Args:
        boxes: of the lines.
        directions: in which each line is read, vectors of length 1, shape (2,).
        weights: how much each line counts (its number of characters).

    Returns: indices into `boxes`.
    """
    if not boxes:
        return []
    ways = np.array(directions, np.float32)
    along = _main_direction(ways, np.array(weights, np.float32))
    across = np.array([-along[1], along[0]], np.float32)
    corners = np.stack(boxes)
    depth = (corners @ across).mean(axis=1)
    height = np.ptp(corners @ across, axis=1)
    position = (corners @ along).min(axis=1)
    order = [int(i) for i in np.argsort(depth)]
    rows = [[order[0]]]
    for before, i in pairwise(order):
        if depth[i] - depth[before] < min(height[i], height[before]) / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [i for row in rows for i in sorted(row, key=lambda i: float(position[i]))]


def _main_direction(
    ways: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    quarters = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    nearest = (ways @ quarters.T).argmax(axis=1)
    votes = np.bincount(nearest, weights=weights, minlength=4)
    ours = nearest == votes.argmax()
    mean = (ways[ours] * weights[ours, None]).sum(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-6), np.float32)
