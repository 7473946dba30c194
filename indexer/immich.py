"""What the administrator chose in Immich, so that Immich and the index agree."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from indexer.models.types import OcrOptions
from indexer.settings import Settings
from pg.connect import Connection

log = logging.getLogger(__name__)

# Immich keeps only what differs from its defaults (server/src/config.ts, 3.1).
_DEFAULT_CLIP = "ViT-B-32__openai"


class _Clip(msgspec.Struct, rename="camel"):
    model_name: str = _DEFAULT_CLIP


class _Ocr(msgspec.Struct, rename="camel"):
    min_detection_score: Annotated[float, Meta(ge=0, le=1)] = 0.5
    min_recognition_score: Annotated[float, Meta(ge=0, le=1)] = 0.8
    max_resolution: Annotated[int, Meta(ge=32)] = 736


class _MachineLearning(msgspec.Struct, rename="camel"):
    clip: _Clip = msgspec.field(default_factory=_Clip)
    ocr: _Ocr = msgspec.field(default_factory=_Ocr)


class _SystemConfig(msgspec.Struct, rename="camel"):
    machine_learning: _MachineLearning = msgspec.field(default_factory=_MachineLearning)


@dataclass(frozen=True, slots=True)
class ImmichConfig:
    """Immich's machine-learning settings.

    Attributes:
        clip_name: the model name as typed, e.g. ``cn-clip/ViT-B-16__openai``.
        ocr: thresholds and resolution.
    """

    clip_name: str
    ocr: OcrOptions

    @property
    def cn_clip(self) -> str | None:
        """The cn-clip architecture that the name means; None for one of Immich's own models."""
        return cn_clip_architecture(self.clip_name)


def cn_clip_architecture(name: str) -> str | None:
    """``cn-clip/ViT-B-16__openai`` means cn-clip's ``ViT-B-16``; others mean none of them."""
    prefix, _, _ = name.rpartition("/")
    if prefix.rpartition("/")[2].lower() != "cn-clip":
        return None
    return clean_name(name).partition("__")[0]


def clean_name(name: str) -> str:
    """What Immich's cleanModelName makes of a model's name: its last part, ``:`` as ``_``."""
    return name.rpartition("/")[2].replace(":", "_")


def read_config(connection: Connection) -> ImmichConfig | None:
    """Read Immich's settings; None where there is no Immich (folder mode)."""
    table = connection.execute("SELECT to_regclass('public.system_metadata')").fetchone()
    if table is None or table[0] is None:
        return None
    row = connection.execute(
        "SELECT value::text FROM public.system_metadata WHERE key = 'system-config'"
    ).fetchone()
    try:
        config = msgspec.json.decode(row[0], type=_SystemConfig) if row else _SystemConfig()
    except msgspec.ValidationError as error:
        log.warning("Immich's settings can't be read (%s); its defaults are taken", error)
        config = _SystemConfig()
    ocr = config.machine_learning.ocr
    return ImmichConfig(
        config.machine_learning.clip.model_name,
        OcrOptions(ocr.min_detection_score, ocr.min_recognition_score, ocr.max_resolution),
    )


def adopt(settings: Settings, config: ImmichConfig | None) -> Settings:
    """Settings with what Immich's administrator chose in place of ours.

    A CLIP model of Immich's own can't be served by cn-clip: CLIP_MODEL stands then.
    """
    if config is None:
        return settings
    return msgspec.structs.replace(
        settings,
        clip_model=config.cn_clip or settings.clip_model,
        ocr_min_box_score=config.ocr.min_box_score,
        ocr_min_text_score=config.ocr.min_text_score,
        ocr_max_resolution=config.ocr.max_resolution,
    )


def ocr_options(settings: Settings, config: ImmichConfig | None) -> OcrOptions:
    """How texts are read for the index: as chosen in Immich, else in our settings."""
    chosen = adopt(settings, config)
    return OcrOptions(
        chosen.ocr_min_box_score, chosen.ocr_min_text_score, chosen.ocr_max_resolution
    )


def same_embeddings(settings: Settings, config: ImmichConfig | None) -> bool:
    """Whether Immich's embeddings are of the model of the index, so that one may write the other's.

    Only a name that says so counts: a stock name may be served by Immich's own server.
    """
    return config is not None and config.cn_clip == settings.clip_model
