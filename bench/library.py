"""The libraries, used as their READMEs show: cn-clip eager, RapidOCR with its defaults.

https://github.com/OFA-Sys/Chinese-CLIP#api-use-case, and that of the package rapidocr-onnxruntime.
Runs in a process of its own (`Contender`). Everything returns seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.measure import Clock
from indexer.models.clip_torch import import_cn_clip


class Library:
    """cn_clip and RapidOCR, one picture a call.

    Args:
        clip_model: one of cn_clip's names.
        root: folder of its weights.
        photos: files to work on; methods take their numbers.
        clock: what seconds are measured by.
    """

    def __init__(self, clip_model: str, root: Path, photos: Sequence[Path], clock: Clock) -> None:
        if clock is time.process_time:
            # Threads that wait for each other, spinning, don't work: their time isn't counted.
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        self._clock = clock
        self._clip_model = clip_model
        self._root = root
        self._photos = photos
        self._opened: dict[int, Image.Image] = {}

    @cached_property
    def _clip(self) -> tuple[Any, Any, Any, str]:
        cn_clip = import_cn_clip()
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, preprocess = cn_clip.load_from_name(
            self._clip_model, device=device, download_root=str(self._root)
        )
        model.eval()
        return cn_clip, model, preprocess, device

    @cached_property
    def _ocr(self) -> Any:
        from rapidocr_onnxruntime import RapidOCR

        return RapidOCR()

    def images(self, photos: Sequence[int]) -> float:
        """Embed pictures that are in memory."""
        pictures = [self._picture(number) for number in photos]
        self._load_clip()
        started = self._clock()
        for picture in pictures:
            self._embed(picture)
        return self._clock() - started

    def texts(self, texts: list[str]) -> float:
        """Embed texts, as one batch."""
        import torch

        cn_clip, model, _, device = self._clip
        started = self._clock()
        with torch.no_grad():
            features = model.encode_text(cn_clip.tokenize(texts).to(device))
            features /= features.norm(dim=-1, keepdim=True)
            features.cpu()
        return self._clock() - started

    def read(self, photos: Sequence[int]) -> float:
        """Read the text in pictures that are in memory."""
        pictures = [np.asarray(self._picture(number))[:, :, ::-1] for number in photos]
        ocr = self._ocr
        started = self._clock()
        for picture in pictures:
            ocr(picture)
        return self._clock() - started

    def lines(self, path: Path) -> list[str]:
        """Read the text in a picture; not measured."""
        found, _ = self._ocr(str(path))
        return [text for _, text, _ in found or []]

    def photos(self, photos: Sequence[int]) -> float:
        """Embed and read photos, from their files."""
        ocr = self._ocr
        self._load_clip()
        started = self._clock()
        for number in photos:
            self._embed(Image.open(self._photos[number]))
            ocr(str(self._photos[number]))
        return self._clock() - started

    def _load_clip(self) -> None:
        _ = self._clip

    def _picture(self, number: int) -> Image.Image:
        if number not in self._opened:
            self._opened[number] = Image.open(self._photos[number]).convert("RGB")
        return self._opened[number]

    def _embed(self, picture: Image.Image) -> None:
        import torch

        _, model, preprocess, device = self._clip
        with torch.no_grad():
            features = model.encode_image(preprocess(picture).unsqueeze(0).to(device))
            features /= features.norm(dim=-1, keepdim=True)
            features.cpu()
