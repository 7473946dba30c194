"""Which of Immich's CLIP model names the served model may answer to.

A vector of another length fails Immich's insert, or stays in its cache of queries as a broken
one: so a name is answered only where the lengths are known to be equal.
"""

from __future__ import annotations

import logging

from gateway.errors import Unprocessable
from indexer.immich import clean_name, cn_clip_architecture
from indexer.models.clip import IMMICH_NAMES, MODELS
from indexer.models.types import ClipInfo

log = logging.getLogger(__name__)

# CLIP_MODEL_INFO in immich-app/immich, server/src/constants.ts, as of 2.x and 3.x.
_IMMICH: dict[int, tuple[str, ...]] = {
    512: (
        "RN101__openai",
        "RN101__yfcc15m",
        "ViT-B-16__laion400m_e31",
        "ViT-B-16__laion400m_e32",
        "ViT-B-16__openai",
        "ViT-B-32__laion2b-s34b-b79k",
        "ViT-B-32__laion2b_e16",
        "ViT-B-32__laion400m_e31",
        "ViT-B-32__laion400m_e32",
        "ViT-B-32__openai",
        "XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k",
        "XLM-Roberta-Large-Vit-B-32",
    ),
    640: (
        "RN50x4__openai",
        "ViT-B-16-plus-240__laion400m_e31",
        "ViT-B-16-plus-240__laion400m_e32",
        "XLM-Roberta-Large-Vit-B-16Plus",
    ),
    768: (
        "LABSE-Vit-L-14",
        "RN50x16__openai",
        "ViT-B-16-SigLIP-256__webli",
        "ViT-B-16-SigLIP-384__webli",
        "ViT-B-16-SigLIP-512__webli",
        "ViT-B-16-SigLIP-i18n-256__webli",
        "ViT-B-16-SigLIP2__webli",
        "ViT-B-16-SigLIP__webli",
        "ViT-B-32-SigLIP2-256__webli",
        "ViT-L-14-336__openai",
        "ViT-L-14-quickgelu__dfn2b",
        "ViT-L-14__laion2b-s32b-b82k",
        "ViT-L-14__laion400m_e31",
        "ViT-L-14__laion400m_e32",
        "ViT-L-14__openai",
        "XLM-Roberta-Large-Vit-L-14",
        "nllb-clip-base-siglip__mrl",
        "nllb-clip-base-siglip__v1",
    ),
    1024: (
        "RN50__cc12m",
        "RN50__openai",
        "RN50__yfcc15m",
        "RN50x64__openai",
        "ViT-H-14-378-quickgelu__dfn5b",
        "ViT-H-14-quickgelu__dfn5b",
        "ViT-H-14__laion2b-s32b-b79k",
        "ViT-L-16-SigLIP-256__webli",
        "ViT-L-16-SigLIP-384__webli",
        "ViT-L-16-SigLIP2-256__webli",
        "ViT-L-16-SigLIP2-384__webli",
        "ViT-L-16-SigLIP2-512__webli",
        "ViT-g-14__laion2b-s12b-b42k",
        "XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k",
    ),
    1152: (
        "ViT-SO400M-14-SigLIP-384__webli",
        "ViT-SO400M-14-SigLIP2-378__webli",
        "ViT-SO400M-14-SigLIP2__webli",
        "ViT-SO400M-16-SigLIP2-256__webli",
        "ViT-SO400M-16-SigLIP2-384__webli",
        "ViT-SO400M-16-SigLIP2-512__webli",
        "nllb-clip-large-siglip__mrl",
        "nllb-clip-large-siglip__v1",
    ),
    1536: ("ViT-gopt-16-SigLIP2-256__webli", "ViT-gopt-16-SigLIP2-384__webli"),
}
IMMICH = {name: dim for dim, names in _IMMICH.items() for name in names}
"""Immich's own model names and the lengths of their embeddings."""


class ClipNames:
    """Checks names against the served model; remembers what it has warned of."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def check(self, name: str, served: ClipInfo) -> None:
        """Let pass a name that the served model may answer to.

        ``cn-clip/ViT-B-16__openai`` means cn-clip's ``ViT-B-16``. A name without ``cn-clip/``
        means one of Immich's own models: the served one answers in its place where the lengths
        are equal, so that Immich's default setting works.

        Raises:
            Unprocessable: any other name; says what to change.
        """
        if name == served.name:
            return  # chosen in Immich; where there is no such model, it says so when it is asked
        cn_clip = cn_clip_architecture(name)
        if cn_clip is not None:
            if cn_clip != served.name:
                known = MODELS.get(cn_clip)
                raise Unprocessable(self._refusal(name, known.dim if known else None, served))
            return
        last = clean_name(name)
        dim = IMMICH.get(last)
        if dim is None and last.partition("__")[0] == served.name:
            return
        if dim != served.dim:
            raise Unprocessable(self._refusal(name, dim, served))
        if last not in self._warned:
            self._warned.add(last)
            log.warning(
                "clip model stands in asked=%s served=%s dim=%d: Immich's setting names a model "
                "that isn't served here; vectors of the same length are given.%s",
                last,
                served.name,
                dim,
                self._suggestion(served),
            )

    @staticmethod
    def _suggestion(served: ClipInfo) -> str:
        suggested = IMMICH_NAMES.get(served.name)
        return f" To name it, set the CLIP model in Immich to {suggested}." if suggested else ""

    def _refusal(self, name: str, dim: int | None, served: ClipInfo) -> str:
        length = f"vectors of {dim} numbers" if dim else "vectors of a length unknown here"
        architecture = name.rpartition("/")[2].partition("__")[0]
        change = (
            f" To serve that one, set CLIP_MODEL={architecture}."
            if architecture in MODELS and architecture != served.name
            else ""
        )
        return (
            f"The CLIP model {name!r} ({length}) isn't served here: this server has "
            f"{served.name} ({served.dim} numbers).{self._suggestion(served)}{change}"
        )
