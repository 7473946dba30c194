"""cn-clip as the package has it: its loader, its modules, in PyTorch."""

from __future__ import annotations

import json
import logging
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from indexer.models.types import Embeddings, Side

if TYPE_CHECKING:
    import torch

STAND_IN = "stand-in"

# Pictures or texts a call on the CPU: more are no faster, and take memory.
_MOST_ON_CPU = 16
# On a GPU, before its memory has its say.
_MOST_ON_GPU = 256
# Of a GPU's free memory: others may want some, too.
_MEMORY_SHARE = 0.5

_import_lock = threading.Lock()
_torchvision_operators: object | None = None

log = logging.getLogger(__name__)


class TorchTower:
    """One half of a cn-clip module: fp32 on the CPU, fp16 on a GPU (the package's choices).

    May be called from several threads at once. On a GPU each of them has a stream of its own, so
    that one's transfers go on while another's batch is computed.
    """

    def __init__(self, module: torch.nn.Module, side: Side, device: torch.device) -> None:
        # cn_clip leaves dropout on: two embeddings of one text would differ.
        self._module: Any = module.eval()
        self._side = side
        self._device = device
        self.on_cpu = device.type == "cpu"
        self.kind = f"PyTorch {'f32' if self.on_cpu else 'f16'}"
        self._most = _MOST_ON_CPU if self.on_cpu else _MOST_ON_GPU
        self._streams = threading.local()

    def __call__(self, values: npt.NDArray[Any]) -> Embeddings:
        """Compute in batches that fit; nothing is normalised.

        Where a GPU's memory runs out the batch is halved, for this call and all later ones, down to
        one; then it is the caller's failure.
        """
        import numpy as np
        import torch

        done: list[Embeddings] = []
        start = 0
        while start < len(values):
            most = self._most
            try:
                done.append(self._compute(values[start : start + most]))
                start += most
            except torch.cuda.OutOfMemoryError:
                tried = min(most, len(values) - start)
                if tried == 1:
                    raise
                self._most = max(1, tried // 2)
                log.warning(
                    "%s is out of memory with a batch of %d, going on with %d",
                    self._device,
                    tried,
                    self._most,
                )
                torch.cuda.empty_cache()
        return np.concatenate(done)

    def fit(self, example: npt.NDArray[Any], workers: int) -> None:
        """Choose the largest batch by a GPU's free memory and what one input takes of it.

        Args:
            example: one input.
            workers: how many batches at once.
        """
        import torch

        if self.on_cpu:
            return
        self._compute(example)  # what is allocated once
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._compute(example)
        each = max(1, torch.cuda.max_memory_allocated(self._device) - before)
        free, _ = torch.cuda.mem_get_info(self._device)
        self._most = max(1, min(_MOST_ON_GPU, int(free * _MEMORY_SHARE / workers / each)))
        log.info(
            "%s: %d a batch (%.1f MB each, %.1f GB free)",
            self._device,
            self._most,
            each / 1e6,
            free / 1e9,
        )

    def _compute(self, values: npt.NDArray[Any]) -> Embeddings:
        import torch

        encode = getattr(self._module, f"encode_{self._side}")
        given = torch.from_numpy(values)
        with torch.inference_mode():
            if self.on_cpu:
                result: Embeddings = encode(given).float().numpy()
                return result
            stream = self._stream()
            with torch.cuda.stream(stream):
                out = encode(given.pin_memory().to(self._device, non_blocking=True)).float()
                back = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
                back.copy_(out, non_blocking=True)
            stream.synchronize()
            # A copy: pinned memory is scarce, and embeddings are kept.
            copied: Embeddings = back.numpy().copy()
        return copied

    def _stream(self) -> Any:
        import torch

        if not hasattr(self._streams, "mine"):
            self._streams.mine = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._streams.mine


def load_tower(name: str, side: Side, *, root: Path, device: str, threads: int) -> TorchTower:
    """Load one half of a model; the other's memory is freed.

    Args:
        threads: that torch may use for one computation on the CPU, in the whole process.

    Raises:
        Exception: whatever torch or cn_clip raise for damaged weights or an unknown device.
    """
    import torch

    torch.set_num_threads(threads)
    module: Any = load_module(name, root=root, device=device)
    if side == "image":
        module.bert = None
    else:
        # The package asks the first convolution for the model's type, for texts, too.
        visual, module.visual = module.visual, torch.nn.Module()
        module.visual.conv1 = visual.conv1
    return TorchTower(module, side, torch.device(device))


def load_module(name: str, *, root: Path, device: str) -> torch.nn.Module:
    """Load a whole model, with cn_clip's own loader.

    Raises:
        Exception: as `load_tower`.
    """
    cn_clip = import_cn_clip()
    if name == STAND_IN:
        return _load_stand_in(cn_clip, device)
    module: torch.nn.Module
    module, _ = cn_clip.load_from_name(name, device=device, download_root=str(root))
    return module


def resolve_device(device: str) -> str:
    """Return what torch calls it; for ``auto``: CUDA where there is one."""
    if device != "auto":
        return device
    if not _cuda_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _cuda_driver() -> bool:
    """Whether NVIDIA's driver is there; else there is no need to import torch (0.2 GB) to know."""
    import ctypes
    import sys

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def download(name: str, root: Path, *, use_modelscope: bool) -> None:
    """Fetch public weights into `root` with cn_clip's own downloader; no-op if they are there.

    Raises:
        Exception: whatever huggingface_hub or modelscope raise; at once where there is no network.
    """
    utils = import_cn_clip().utils
    if not use_modelscope:
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        # The downloader itself would try for 23 s before it says that there is no network.
        repository, file = utils._MODELS[name]
        url = huggingface_hub.hf_hub_url(f"{utils._HUGGINGFACE_ORG}/{repository}", file)
        huggingface_hub.get_session().head(url, timeout=10)
        disable_progress_bars()
    utils._download(name, str(root), use_modelscope)


def import_cn_clip() -> Any:
    """Import ``cn_clip.clip``; takes seconds the first time.

    Two repairs, each once: a CPU build of torch beside the registry's torchvision lacks two
    operators, without which torchvision fails to import; and cn_clip prints while loading, so
    that its module gets a ``print`` of its own (redirecting sys.stdout would also catch what
    other threads print meanwhile).
    """
    global _torchvision_operators
    with _import_lock:
        import torch

        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            operators: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            operators.define(f"nms{arguments}")
            operators.define(f"qnms{arguments}")
            # The operators live as long as this object.
            _torchvision_operators = operators
        import cn_clip.clip
        import cn_clip.clip.utils

        cn_clip.clip.utils.print = lambda *words: log.debug(
            "cn_clip: %s", " ".join(map(str, words))
        )
        return cn_clip.clip


def stand_in_weights() -> Path:
    """Return the shipped weights of the stand-in."""
    return Path(str(resources.files(__package__) / "stand_in" / "clip_cn_stand-in.pt"))


def stand_in_config() -> dict[str, Any]:
    """Return the stand-in's configuration, as in cn_clip's ``model_configs``, and more."""
    text = (resources.files(__package__) / "stand_in" / "config.json").read_text("utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def _load_stand_in(cn_clip: Any, device: str) -> torch.nn.Module:
    """As `load_from_name` does, for which a configuration must lie inside the package."""
    import torch

    config = stand_in_config()
    config.pop("context_length", None)
    config.pop("input_resolution", None)
    model: torch.nn.Module = cn_clip.model.CLIP(**config)
    cn_clip.model.convert_weights(model)
    state = torch.load(stand_in_weights(), map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict(
        {k.removeprefix("module."): v for k, v in state.items() if "bert.pooler" not in k}
    )
    return model.float() if device == "cpu" else model.to(device)
