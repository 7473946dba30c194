"""Which Chinese characters look alike: compared as they are drawn, not listed by hand.

Two characters are alike if they still are when one can't see well: each is drawn in a sans and a
serif face, blurred until thin strokes are gone, and the grey values are correlated. Among those
that pass, a reader with a language model (which an OCR model has become in training) takes the
commoner one more often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from scripts.drawing import font
from tests.judged.judged import simplified

FACES = ("sans", "serif")
SIZE = 64  # pixels of a character
BLUR = 3.0  # pixels: half the width of a bold stroke
LEAST = 0.78  # correlation
COMMON = 0.02  # of correlation, for ten times as common
MOST = 8  # look-alikes of one character


def lookalikes(words: Mapping[str, int]) -> dict[str, str]:
    """Character → its look-alikes, likeliest first.

    Args:
        words: words and how often they were counted; their characters are what is asked for.

    Returns:
        Only characters that OCR models read and that are their own simplified form.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    allowed = readable()
    characters = sorted(counts.keys() | allowed)
    alike = np.mean([correlations(characters, face) for face in FACES], axis=0)
    common = np.log10([max(counts[c], 1) for c in characters])
    found = {}
    for place, character in enumerate(characters):
        if character not in counts:
            continue
        score = np.where(alike[place] >= LEAST, alike[place] + COMMON * common, 0)
        others = [characters[i] for i in np.argsort(-score)[: MOST + 1] if score[i]]
        found[character] = "".join(c for c in others if c in allowed and c != character)[:MOST]
    return found


def correlations(characters: list[str], face: str) -> npt.NDArray[np.float32]:
    """float32 (n, n): of every two characters, how alike they are drawn, -1 to 1."""
    drawn = []
    for character in characters:
        page = Image.new("L", (SIZE + 8, SIZE + 8))
        ImageDraw.Draw(page).text((4, -8), character, font=font(face, SIZE), fill=255)
        grey = cv2.GaussianBlur(np.asarray(page, np.float32), (0, 0), BLUR)
        small = cv2.resize(grey, (24, 24), interpolation=cv2.INTER_AREA).ravel()
        small -= small.mean()
        drawn.append(small / np.linalg.norm(small))
    matrix = np.stack(drawn)
    return matrix @ matrix.T


def readable() -> set[str]:
    """What an OCR model may read: the characters of China's and Japan's standards, simplified."""
    characters = {chr(c) for c in range(ord("一"), ord("鿿") + 1)} - {chr(c) for c in simplified()}
    return {c for c in characters if _encodable(c, "gb2312") or _encodable(c, "euc_jp")}


def _encodable(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
