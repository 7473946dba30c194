"""Pictures whose text and embedding are known: an engine that derives both from the bytes.

The suite is about the queue: who reads what, when, and how often. So a stand-in for the models that
takes no time lets thousands of events through, and says which version of a photo was read.
"""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

import numpy as np
from PIL import Image

from indexer.models.types import Embedding, Line

DIM = 64


def picture(seed: str) -> bytes:
    """A small photo (PNG), each seed another."""
    rng = random.Random(seed)
    out = io.BytesIO()
    Image.frombytes("RGB", (16, 12), rng.randbytes(16 * 12 * 3)).save(out, "PNG")
    return out.getvalue()


def lines_of(sha256: bytes) -> list[Line]:
    """What is read in a picture of this hash."""
    texts = (f"照片 {sha256.hex()[:12]}", f"版本 {sha256.hex()[12:24]}")
    return [
        Line(text, (0.1, y, 0.9, y, 0.9, y + 0.2, 0.1, y + 0.2), 0.9, 0.8)
        for text, y in zip(texts, (0.1, 0.5), strict=True)
    ]


def text_of(sha256: bytes) -> str:
    return "\n".join(line.text for line in lines_of(sha256))


def embedding_of(sha256: bytes) -> Embedding:
    """Shape (64,), of length 1."""
    numbers: Any = np.random.default_rng(list(sha256)).standard_normal(DIM).astype(np.float32)
    unit: Embedding = numbers / np.linalg.norm(numbers)
    return unit


def hash_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
