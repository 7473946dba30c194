"""RapidOCR's detector and recogniser (`ocr_models` says which) → lines of text with both scores.

Their pre- and post-processing is used as it is; what stands between them is ours, because
RapidOCR's own drops the detector's scores, keeps thresholds of earlier calls, shrinks every image
to 2000 pixels before it reads, and flips upright lines now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from indexer.models import ocr_models, ocr_sessions, openvino_cpu
from indexer.models.cores import Share
from indexer.models.images import Photo, decode
from indexer.models.layout import TALL, Box, cut_out, from_top_left, reading_order, size, tilt
from indexer.models.ocr_models import OcrModels
from indexer.models.ocr_sessions import Sessions, Shares
from indexer.models.types import Line, OcrOptions, Pixels

# A line read worse than this is read again, turned.
DOUBTFUL = 0.8

# Small images are enlarged at most this much for the detector, then padded: RapidOCR enlarges
# any image to 736 pixels, which takes four times as long on small ones and finds no more.
_MAX_ENLARGEMENT = 2.0
_MIN_SIDE = 320

# No more than this for the detector, whatever is asked for: the memory of one pass.
_MAX_SHORT_SIDE = 1440

# Where so many of the boxes make little sense, or are lower than so many pixels as the detector saw
# them, and the photo has so many times the pixels in a row, it looks again, closer: small text is
# overlooked or runs together, and tilted text sooner.
# Of text far away 96 % is right in place of 67 %, of text at 45 degrees 93 % in place of 58 %
# (`make bench ARGS='--only accuracy'`); what is read at once costs nothing more.
_TOO_DOUBTFUL = 0.2
_VAGUE = 0.5
_LOW = 14
_CLOSER = 1.3

# Where the lightest and the darkest place of a picture are closer than this, of 255, it is
# stretched to all of them: the detector overlooks faint text. Of six samples at 8 % of their
# contrast 98 % is right in place of 43 %, at 15 % 98 in place of 91; from 35 % on it is the same.
# Below `_BLANK` there is nothing to stretch but noise.
_FAINT = 96
_BLANK = 8

# Images longer than `_MAX_ASPECT` (screenshots of a whole page, panoramas) go through the detector
# in windows of twice their short side; this many pixels of overlap are shared between neighbours.
_MAX_ASPECT = 2.5
_WINDOW_ASPECT = 2.0
_OVERLAP = 128
_MAX_DETECTION_PIXELS = 24_000_000

# Below this many pixels of height there is nothing to read: characters need about ten.
_MIN_TEXT = 8

# Both of the networks' strides.
_STRIDE = 32

# Lines a call, and least width of one in pixels. RapidOCR's own are 6 and 320.
# On a CPU one line a call is 1.5 times as fast as six padded to the longest of them; so is a
# narrower least width than RapidOCR's 320, for the short lines of receipts and tables.
_CPU_LINES = 1
_CPU_WIDTH = 160
_GPU_LINES = 6
_GPU_WIDTH = 320

# The detector is less sure of tilted text, which it finds all the same. At 45 degrees its scores
# count this much more, so that a threshold keeps what it keeps of level text: of four samples
# turned by 30, 45 and 60 degrees, a threshold of 0.4 keeps 88% of the characters, 0.5 keeps 84%.
_TILT_BONUS = 0.25

_PROBE = resources.files(__package__) / "probe"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A crop, as it was read. `turns`: quarters counter-clockwise that made it readable."""

    text: str
    score: float
    turns: int


_Found = tuple[Box, float, _Reading]
"""A line: its box, the detector's score, and what was read."""


class OcrReader:
    """A loaded text reader. May be called from several threads at once."""

    def __init__(
        self,
        *,
        share: Share,
        detection: Share | None = None,
        models: OcrModels | None = None,
        device: str = "cpu",
        openvino: str = "off",
        precision: str = "exact",
    ) -> None:
        """Load the models (0.3 s; through OpenVINO 1 s).

        Args:
            share: how many lines are recognised at once on the CPU, and with how many threads
                each: those of several images, or of one.
            detection: the same of the detector, an image each; None: as `share`.
            models: None: those that RapidOCR's wheel holds.
            device: ``cpu``, ``cuda``, ``cuda:1`` …, or ``auto`` for CUDA where ONNX Runtime has it.
            openvino: ``auto``, where it is installed, or ``off``, see OPENVINO.
            precision: ``auto`` or ``exact``, see PRECISION.

        Raises:
            ValueError: the characters aren't those that the recogniser was made for.
            Exception: what onnxruntime raises for files that aren't networks.
        """
        import rapidocr_onnxruntime
        from rapidocr_onnxruntime.ch_ppocr_det import TextDetector
        from rapidocr_onnxruntime.ch_ppocr_det.utils import DetPreProcess
        from rapidocr_onnxruntime.ch_ppocr_rec import TextRecognizer
        from rapidocr_onnxruntime.utils import read_yaml

        self._models = models or ocr_models.find(ocr_models.DEFAULT)
        config = read_yaml(Path(rapidocr_onnxruntime.__file__).parent / "config.yaml")
        config["Det"]["model_path"] = str(self._models.detector)
        config["Rec"]["model_path"] = str(self._models.recogniser)
        config["Rec"]["rec_keys_path"] = self._models.characters
        # Thresholds are applied to the results: RapidOCR keeps those of a call for the next.
        config["Det"]["box_thresh"] = 0.0
        for part in (config["Det"], config["Rec"]):
            part["intra_op_num_threads"] = share.threads
        self._detector: Any = TextDetector(config["Det"])
        self._prepare: Any = DetPreProcess(_STRIDE, "min", self._detector.mean, self._detector.std)
        self._recogniser: Any = TextRecognizer(config["Rec"])
        self._check_characters()
        self._shares = Shares(detection or share, share)
        self._lines: ThreadPoolExecutor | None = None
        paths = (self._models.detector, self._models.recogniser)
        self.on_cpu = True
        self.kind = ""
        cuda = _cuda(device)
        through_openvino = cuda is None and openvino == "auto" and openvino_cpu.installed()
        # Images are read side by side: OpenCV's own threads would only be in the way.
        cv2.setNumThreads(1)
        if not (through_openvino and self._use_openvino(*paths, precision)):
            self._use(ocr_sessions.with_onnxruntime(*paths, self._shares, cuda=cuda))
        log.info("loaded OCR: %s, %s", self._models.name, self.kind)

    def _check_characters(self) -> None:
        """Refuse a list of characters that another recogniser was made for."""
        known = len(self._recogniser.postprocess_op.character)
        classes = self._recogniser.session.session.get_outputs()[0].shape[-1]
        if isinstance(classes, int) and classes != known:
            # RapidOCR adds two of its own: nothing, and a space.
            raise ValueError(
                f"{self._models.recogniser.name} tells {classes - 2} characters apart, but "
                f"{known - 2} are listed"
            )

    def _use_openvino(self, detector: Path, recogniser: Path, precision: str) -> bool:
        """Use the fastest precision that reads the probe rightly; False: there is none."""
        try:
            expected = self._expected_text(detector, recogniser)
            for candidate in openvino_cpu.precisions(precision):
                self._use(
                    ocr_sessions.with_openvino(
                        detector, recogniser, self._shares, precision=candidate
                    )
                )
                if self._read_probe() == expected:
                    return True
                log.warning("OCR doesn't run in %s: another text is read", self.kind)
        except Exception as error:
            log.warning("OCR goes on in ONNX Runtime, more slowly: %s", error)
        return False

    def _use(self, sessions: Sessions) -> None:
        self._detector.infer, self._recogniser.session = sessions.detect, sessions.recognise
        self.on_cpu, self.kind = sessions.on_cpu, sessions.kind
        self._recogniser.rec_batch_num = _CPU_LINES if self.on_cpu else _GPU_LINES
        self._recogniser.rec_image_shape = [3, 48, _CPU_WIDTH if self.on_cpu else _GPU_WIDTH]
        at_once = self._shares.recogniser.workers if self.on_cpu else 1
        # Of the reader, not of a call: images that are read at once share these threads.
        self._lines = ThreadPoolExecutor(at_once, "ocr-lines") if at_once > 1 else None

    def _expected_text(self, detector: Path, recogniser: Path) -> list[str]:
        """What ONNX Runtime reads in the built-in picture; for the wheel's models it is known."""
        if self._models == ocr_models.find(ocr_models.DEFAULT):
            return (_PROBE / "table.txt").read_text("utf-8").splitlines()
        self._use(ocr_sessions.with_onnxruntime(detector, recogniser, self._shares, cuda=None))
        return self._read_probe()

    def _read_probe(self) -> list[str]:
        data = (_PROBE / "table.png").read_bytes()
        photo = decode(data, max_bytes=len(data), max_pixels=10**7)
        return [line.text for line in self.read(photo, OcrOptions())]

    def read(self, photo: Photo, options: OcrOptions) -> list[Line]:
        """Find and read the lines of text in a photo, in reading order."""
        image = np.asarray(cv2.cvtColor(np.asarray(photo.image), cv2.COLOR_RGB2BGR), np.uint8)
        image = _with_contrast(image)
        height, width = image.shape[:2]
        scale = _detection_scale(height, width, options.max_resolution)
        lines, doubtful = self._read_at(image, scale, options)
        closer = min(1.0, _detection_scale(height, width, _MAX_SHORT_SIDE))
        if doubtful >= _TOO_DOUBTFUL and closer >= _CLOSER * scale:
            again, _ = self._read_at(image, closer, options)
            lines = max(lines, again, key=_sure_characters)
        order = reading_order(
            [box for box, _, _ in lines],
            [_direction(box, reading) for box, _, reading in lines],
            [len(reading.text) for _, _, reading in lines],
        )
        return [_line(*lines[i], image) for i in order]

    def _read_at(
        self, image: Pixels, scale: float, options: OcrOptions
    ) -> tuple[list[_Found], float]:
        """Find and read lines at a scale; also says which share of the boxes is doubtful."""
        boxes = list(self._detect(image, scale))
        found = [(box, score) for box, score in boxes if score >= options.min_box_score]
        # Boxes that only a strict threshold leaves out say nothing of how well they could be read.
        vague = sum(score < min(options.min_box_score, _VAGUE) for _, score in boxes)
        readings = self._recognise([cut_out(image, box) for box, _ in found])
        clear = sum(
            reading.score >= DOUBTFUL and min(size(box)) * scale >= _LOW
            for (box, _), reading in zip(found, readings, strict=True)
        )
        lines = [
            (box, box_score, reading)
            for (box, box_score), reading in zip(found, readings, strict=True)
            if reading.score >= options.min_text_score and reading.text.strip()
        ]
        judged = len(found) + vague
        return lines, 1 - clear / judged if judged else 0.0

    def _detect(self, image: Pixels, scale: float) -> Iterator[tuple[Box, float]]:
        """Find boxes around lines of text, in pixels of `image`, with the detector's scores."""
        height, width = image.shape[:2]
        if min(height, width) * scale < _MIN_TEXT:
            return
        padded, left, top = _scaled_and_padded(image, scale)
        text_map = self._text_map(padded)
        whole = (round(padded.shape[0] / scale), round(padded.shape[1] / scale))
        boxes, scores = self._detector.postprocess_op(text_map, whole)
        for corners, score in zip(boxes, scores, strict=True):
            box = from_top_left(
                corners.astype(np.float32) - np.array((left, top), np.float32) / scale
            )
            box = box.clip(0, np.array((width - 1, height - 1), np.float32))
            # As RapidOCR: nothing can be read in three pixels.
            if min(size(box)) > 3:
                yield box, min(1.0, float(score) * (1 + _TILT_BONUS * tilt(box)))

    def _text_map(self, padded: Pixels) -> npt.NDArray[np.float32]:
        """How likely each pixel is text, shape (1, 1, h, w); long images window by window."""
        short, long = sorted(padded.shape[:2])
        if long <= _MAX_ASPECT * short:
            return self._infer(padded)
        text_map = np.zeros((1, 1, *padded.shape[:2]), np.float32)
        downwards = padded.shape[0] == long
        window = round(_WINDOW_ASPECT * short / _STRIDE) * _STRIDE
        for start in range(0, long - _OVERLAP, window - _OVERLAP):
            end = min(start + window, long)
            # Each half of an overlap comes from the window that sees further beyond it.
            skip = _OVERLAP // 2 if start else 0
            if downwards:
                part = self._infer(padded[start:end])
                text_map[:, :, start + skip : end] = part[:, :, skip:]
            else:
                part = self._infer(padded[:, start:end])
                text_map[:, :, :, start + skip : end] = part[:, :, :, skip:]
        return text_map

    def _infer(self, image: Pixels) -> npt.NDArray[np.float32]:
        return np.asarray(self._detector.infer(self._prepare(image))[0], np.float32)

    def _recognise(self, crops: Sequence[Pixels]) -> list[_Reading]:
        """Read levelled crops; tall ones and those that make little sense also turned.

        In place of RapidOCR's angle classifier, which costs time for every line and turns some
        upright ones.
        """
        turns = [int(crop.shape[0] >= TALL * crop.shape[1]) for crop in crops]
        readings = self._read_turned(crops, turns)
        doubtful = [i for i, reading in enumerate(readings) if reading.score < DOUBTFUL]
        again = self._read_turned([crops[i] for i in doubtful], [turns[i] + 2 for i in doubtful])
        for i, reading in zip(doubtful, again, strict=True):
            if reading.score > readings[i].score:
                readings[i] = reading
        return readings

    def _read_turned(self, crops: Sequence[Pixels], turns: Sequence[int]) -> list[_Reading]:
        if not crops:
            return []
        turned = [
            np.ascontiguousarray(np.rot90(crop, turn))
            for crop, turn in zip(crops, turns, strict=True)
        ]
        if self._lines is not None:
            # Line by line, so that none waits for a longer one.
            results = list(self._lines.map(lambda crop: self._recogniser([crop])[0][0], turned))
        else:
            results, _ = self._recogniser(turned)
        return [
            _Reading(text, float(score), turn)
            for (text, score), turn in zip(results, turns, strict=True)
        ]


def _sure_characters(lines: Sequence[_Found]) -> float:
    """How much was read, weighted by how sure it is."""
    return sum(len(reading.text) * reading.score for _, _, reading in lines)


def _cuda(device: str) -> int | None:
    """Number of the GPU to use; None for the CPU."""
    if device == "cpu":
        return None
    if not ocr_sessions.has_cuda():
        if device != "auto":
            log.warning("DEVICE is %s, but OCR runs on the CPU: install onnxruntime-gpu", device)
        return None
    return int(device.partition(":")[2] or 0)


def _with_contrast(image: Pixels) -> Pixels:
    """The image itself, or stretched from black to white where it is faint."""
    height, width = image.shape[:2]
    # Half as large: single pixels of noise don't count.
    half = cv2.resize(
        image, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA
    )
    grey = cv2.cvtColor(half, cv2.COLOR_BGR2GRAY)
    darkest, lightest = int(grey.min()), int(grey.max())
    if not _BLANK <= lightest - darkest < _FAINT:
        return image
    levels = (np.arange(256) - darkest) * (255 / (lightest - darkest))
    return np.asarray(cv2.LUT(image, levels.round().clip(0, 255).astype(np.uint8)), np.uint8)


def _detection_scale(height: int, width: int, max_resolution: int) -> float:
    """How much to shrink (or enlarge) an image for the detector."""
    wanted = min(max(max_resolution, _STRIDE), _MAX_SHORT_SIDE) / min(height, width)
    scale = min(wanted, _MAX_ENLARGEMENT)
    # Only strips of extreme length come near the limit; the padding counts, too.
    short = max(_MIN_SIDE, min(height, width) * scale)
    return min(scale, _MAX_DETECTION_PIXELS / short / max(height, width))


def _scaled_and_padded(image: Pixels, scale: float) -> tuple[Pixels, int, int]:
    """Resize and pad to whole strides of at least `_MIN_SIDE`; says how much is left and above."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=method)
    down, right = (max(-side % _STRIDE, _MIN_SIDE - side) for side in (height, width))
    top, left = down // 2, right // 2
    padded = cv2.copyMakeBorder(scaled, top, down - top, left, right - left, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8), left, top


def _stacked(reading: _Reading) -> bool:
    """Vertical Chinese: its characters stand upright, one below another."""
    return reading.turns == 1 and any(char >= "\u2e80" for char in reading.text)


def _direction(box: Box, reading: _Reading) -> npt.NDArray[np.float32]:
    """In which the text in a box was read, a vector of length 1."""
    first, second = np.roll(box, -reading.turns, axis=0)[:2]
    return np.asarray((second - first) / np.linalg.norm(second - first), np.float32)


def _line(box: Box, box_score: float, reading: _Reading, image: Pixels) -> Line:
    if not _stacked(reading):
        # First comes the corner at the top left of the text as it was read.
        box = np.roll(box, -reading.turns, axis=0)
    height, width = image.shape[:2]
    relative = (box / np.array((width, height), np.float32)).reshape(-1)
    x1, y1, x2, y2, x3, y3, x4, y4 = (float(value) for value in relative)
    return Line(reading.text, (x1, y1, x2, y2, x3, y3, x4, y4), box_score, reading.score)
