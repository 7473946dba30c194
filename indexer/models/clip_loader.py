"""Where the CLIP weights come from, and what to tell people while they aren't there."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import MappingProxyType

from indexer.models import clip, clip_openvino, clip_torch, openvino_cpu
from indexer.models.clip import ClipModel, Tower
from indexer.models.cores import Share, share, share_of_texts, wide_share
from indexer.models.types import ClipInfo, ModelUnavailable, Side
from indexer.settings import Settings, SettingsError

# cn_clip.clip.utils._MODELS and its two organisations; a test holds them together.
FILES = MappingProxyType(
    {
        "ViT-B-16": ("chinese-clip-vit-base-patch16", "clip_cn_vit-b-16.pt"),
        "ViT-L-14": ("chinese-clip-vit-large-patch14", "clip_cn_vit-l-14.pt"),
        "ViT-L-14-336": ("chinese-clip-vit-large-patch14-336px", "clip_cn_vit-l-14-336.pt"),
        "ViT-H-14": ("chinese-clip-vit-huge-patch14", "clip_cn_vit-h-14.pt"),
        "RN50": ("chinese-clip-rn50", "clip_cn_rn50.pt"),
    }
)
SOURCES = MappingProxyType(
    {
        "huggingface": "https://huggingface.co/OFA-Sys",
        "modelscope": "https://modelscope.cn/models/AI-ModelScope",
    }
)

# A download or a load that failed isn't tried again for this long.
RETRY_SECONDS = 300.0

log = logging.getLogger(__name__)


class ClipLoader:
    """Loads the CLIP model of the settings, each half apart, downloading its weights if it may.

    Downloads run in a thread of their own: nobody who asks for an embedding waits for the
    network. Until the weights are there, `get` fails and `problem` says why; a file that
    somebody puts there is found at the next call of either.

    Args:
        cores: to compute on.
    """

    def __init__(self, settings: Settings, cores: int) -> None:
        name = settings.clip_model
        # Chosen in Immich, which takes such names: no reason to end, it can be put right there.
        self._no_such = "/" in name
        if not self._no_such and name != clip_torch.STAND_IN and name not in clip.MODELS:
            known = ", ".join([*clip.MODELS, clip_torch.STAND_IN])
            raise SettingsError(f"CLIP_MODEL is {name!r}; it takes one of {known}")
        self.info: ClipInfo = ClipInfo(name, 0, 0) if self._no_such else clip.info(name)
        self._root = settings.clip_download_root.expanduser()
        self._source = settings.clip_download
        self._device = settings.device
        self._openvino = settings.openvino
        self._precision = settings.precision
        self._shares: dict[Side, Share] = {
            "image": wide_share(cores),
            "text": share_of_texts(cores),
        }
        self._torch_share = share(cores)
        self._models: dict[Side, ClipModel] = {}
        self._load_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._download: threading.Thread | None = None
        self._download_failed: tuple[float, str] | None = None
        # The file (by size and time) that couldn't be loaded, when that was, and why.
        self._unloadable: tuple[tuple[int, int], float, str] | None = None

    @property
    def path(self) -> Path:
        """The weights' file, there or not."""
        if self.info.name == clip_torch.STAND_IN:
            return clip_torch.stand_in_weights()
        return self._root / FILES[self.info.name][1]

    def problem(self) -> str | None:
        """Say why the model can't be served now; None when it can, or is only not loaded yet.

        Cheap. Where the weights are missing and may be downloaded, this is what starts the
        download, and what starts it again some minutes after one failed.
        """
        if self._models:
            return None
        if self._no_such:
            names = ", ".join(clip.IMMICH_NAMES.values())
            return (
                f"cn-clip has no model {self.info.name!r}. In Immich's settings (Machine Learning, "
                f"Smart Search) choose one of {names}"
            )
        stamp = self._stamp()
        if stamp is None:
            return f"CLIP model {self.info.name}: {self._missing()}"
        if self._unloadable is not None:
            failed, failed_at, why = self._unloadable
            if failed == stamp and _recent(failed_at):
                return f"CLIP model {self.info.name} can't be loaded: {why}"
        return None

    def get(self, side: Side) -> ClipModel:
        """Return one half of the model, loading it from disk the first time (seconds).

        Raises:
            ModelUnavailable: with what `problem` says.
        """
        if (model := self._models.get(side)) is not None:
            return model
        self._check()
        with self._load_lock:
            # Another thread may have loaded it meanwhile, or have failed to.
            self._check()
            if side not in self._models:
                self._models[side] = self._load(side)
            return self._models[side]

    def kinds(self) -> dict[str, str]:
        """Say which halves are loaded, and what computes them."""
        return {
            f"clip_{side}": tower.kind
            for side, model in list(self._models.items())
            if (tower := model.image or model.text)
        }

    def unload(self, side: Side) -> None:
        """Forget one half; the next `get` loads it again."""
        self._models.pop(side, None)

    def _check(self) -> None:
        if (problem := self.problem()) is not None:
            raise ModelUnavailable(problem)

    def _load(self, side: Side) -> ClipModel:
        stamp = self._stamp()
        try:
            tower = self._tower(side)
        except Exception as error:
            why = (
                f"{_one_line(error)}. If {self.path} is damaged, put a whole one there; DEVICE is "
                f"{self._device!r}"
            )
            log.warning("CLIP model %s can't be loaded: %s", self.info.name, why)
            if stamp is not None:
                self._unloadable = (stamp, time.monotonic(), why)
            raise ModelUnavailable(f"CLIP model {self.info.name} can't be loaded: {why}") from error
        if side == "image":
            return ClipModel(self.info, image=tower)
        return ClipModel(self.info, text=tower)

    def _tower(self, side: Side) -> Tower:
        started = time.monotonic()
        device = clip_torch.resolve_device(self._device)
        tower: Tower | None = None
        # The stand-in has five megabytes: converting it takes longer than all that it ever does.
        wanted = self._openvino == "auto" and self.info.name != clip_torch.STAND_IN
        if device == "cpu" and wanted and openvino_cpu.installed():
            try:
                tower = clip_openvino.load_tower(
                    self.info,
                    side,
                    weights=self.path,
                    cache=self._root,
                    load_module=lambda: clip_torch.load_module(
                        self.info.name, root=self._root, device="cpu"
                    ),
                    precision=self._precision,
                    share=self._shares[side],
                )
            except Exception as error:
                log.warning("CLIP goes on in PyTorch, more slowly: %s", _one_line(error))
        if tower is None:
            torch_tower = clip_torch.load_tower(
                self.info.name,
                side,
                root=self._root,
                device=device,
                # One number for the whole process: what suits pictures, which are most of the work.
                threads=self._torch_share.threads,
            )
            torch_tower.fit(clip.probe(self.info, side)[:1], self._torch_share.workers)
            tower = torch_tower
        log.info(
            "loaded CLIP %s %s: %s on %s, %.1f s",
            self.info.name,
            side,
            tower.kind,
            device,
            time.monotonic() - started,
        )
        return tower

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _missing(self) -> str:
        if self._source == "off" or self.info.name == clip_torch.STAND_IN:
            return self._instruction()
        with self._state_lock:
            if self._download is not None:
                return f"its weights are being downloaded from {self._url()} to {self.path}"
            if self._download_failed is not None:
                failed_at, why = self._download_failed
                if _recent(failed_at):
                    return (
                        f"{self._instruction()}; downloading it failed ({why}) and is tried again "
                        f"every {RETRY_SECONDS / 60:.0f} minutes"
                    )
            self._download = threading.Thread(target=self._fetch, name="clip-download", daemon=True)
            self._download.start()
            return f"its weights are being downloaded from {self._url()} to {self.path}"

    def _instruction(self) -> str:
        where = f"put {self.path.name} into {self.path.parent}"
        if self.info.name == clip_torch.STAND_IN:
            return f"its weights are missing from this installation: {where}"
        return f"its weights are missing: {where}, from {self._url()}"

    def _url(self) -> str:
        base = SOURCES["huggingface" if self._source == "off" else self._source]
        return f"{base}/{FILES[self.info.name][0]}"

    def _fetch(self) -> None:
        log.info("downloading %s from %s to %s", self.path.name, self._url(), self.path.parent)
        failure = None
        try:
            clip_torch.download(
                self.info.name, self._root, use_modelscope=self._source == "modelscope"
            )
        except Exception as error:
            failure = (time.monotonic(), _one_line(error))
            log.warning("downloading %s failed: %s", self.path.name, failure[1])
        with self._state_lock:
            self._download_failed = failure
            self._download = None


def _recent(moment: float) -> bool:
    return time.monotonic() - moment < RETRY_SECONDS


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:300] + "…"
