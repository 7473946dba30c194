"""What the administrator chose in Immich, so that Immich and the index agree."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from indexer.models.clip import MODELS
from indexer.models.clip_torch import STAND_IN
from indexer.models.types import OcrOptions
from indexer.rounds import Rounds
from indexer.settings import Settings
from pg.connect import Connection

log = logging.getLogger(__name__)

_WATCH_SECONDS = 30.0

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

    @property
    def clip_model(self) -> str | None:
        """What CLIP_MODEL must be to agree; None for one of Immich's own models.

        Immich takes ``cn-clip/`` before any of its own names. Where cn-clip has no such model this
        is the name as typed: CLIP then waits, and says why.
        """
        return self.cn_clip if self.cn_clip in (None, STAND_IN, *MODELS) else self.clip_name


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
        clip_model=wanted_clip_model(settings, config),
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


def wanted_clip_model(settings: Settings, config: ImmichConfig | None) -> str:
    """What CLIP_MODEL is to be: the model that is chosen in Immich, or what is set."""
    return (config and config.clip_model) or settings.clip_model


class ClipModelWatch(Rounds):
    """Looks whether another CLIP model is chosen in Immich.

    For a gateway without a worker; beside one, `indexer.reconcile` looks.

    Args:
        settings: with the model in use.
        url: of the database. It may be away.
        on_clip_model: called with the other model.
    """

    def __init__(self, settings: Settings, url: str, on_clip_model: Callable[[str], None]) -> None:
        def look(connection: Connection) -> None:
            wanted = wanted_clip_model(settings, read_config(connection))
            if wanted != settings.clip_model:
                on_clip_model(wanted)

        super().__init__("clip-model-watch", url, look, _WATCH_SECONDS, logging.DEBUG)
