"""cn-clip's models: pictures and texts → embeddings of one space.

What goes in and out is prepared here; the two towers that compute are a part of their own
(`TorchTowers`), so that another backend can take their place.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from indexer.models.types import ClipInfo

if TYPE_CHECKING:
    import torch

STAND_IN = "stand-in"

# Of cn-clip 1.6.0: https://github.com/OFA-Sys/Chinese-CLIP. Here, too, because importing cn_clip
# takes seconds, and these are asked for where nothing is loaded.
MODELS = {
    "ViT-B-16": ClipInfo("ViT-B-16", dim=512, resolution=224),
    "ViT-L-14": ClipInfo("ViT-L-14", dim=768, resolution=224),
    "ViT-L-14-336": ClipInfo("ViT-L-14-336", dim=768, resolution=336),
    "ViT-H-14": ClipInfo("ViT-H-14", dim=1024, resolution=224),
    "RN50": ClipInfo("RN50", dim=1024, resolution=224),
}
# What to type into Immich's settings for each: the part after the slash must be one of Immich's
# own names, with the right length.
IMMICH_NAMES = {
    "ViT-B-16": "cn-clip/ViT-B-16__openai",
    "ViT-L-14": "cn-clip/ViT-L-14__openai",
    "ViT-L-14-336": "cn-clip/ViT-L-14-336__openai",
    "ViT-H-14": "cn-clip/ViT-H-14__laion2b-s32b-b79k",
    "RN50": "cn-clip/RN50__openai",
}
CONTEXT_LENGTH = 52

# cn_clip.clip.utils.image_transform
_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)

# Far more than 52 tokens ever need; keeps the pure-Python tokenizer from a megabyte of text.
_MAX_CHARACTERS = 16_384

_import_lock = threading.Lock()
_torchvision_operators: object | None = None

log = logging.getLogger(__name__)

Embeddings = npt.NDArray[np.float32]
Tokenize = Callable[[list[str]], npt.NDArray[np.int64]]


class Towers(Protocol):
    """The two halves of a CLIP model, whatever computes them. Nothing is normalised."""

    @property
    def on_cpu(self) -> bool:
        """Whether computing keeps the CPU's cores busy."""
        ...

    def image(self, pixels: npt.NDArray[np.float32]) -> Embeddings:
        """(n, 3, resolution, resolution) → (n, dim)."""
        ...

    def text(self, tokens: npt.NDArray[np.int64]) -> Embeddings:
        """(n, length), 0 is padding → (n, dim)."""
        ...


class ClipModel:
    """A loaded CLIP model. Its methods may be called from several threads at once."""

    def __init__(self, info: ClipInfo, towers: Towers, tokenize: Tokenize) -> None:
        self.info = info
        self.towers = towers
        self._tokenize = tokenize

    def embed_images(self, images: Sequence[Image.Image]) -> Embeddings:
        """Embed upright RGB images, each of any size.

        Returns: shape (n, dim), float32, rows of length 1.
        """
        return _normalise(self.towers.image(_pixels(images, self.info.resolution)))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts; what goes beyond the context (52 tokens) is cut off.

        Returns: shape (n, dim), float32, rows of length 1.
        """
        return _normalise(self.towers.text(_tokens(texts, self._tokenize)))


class TorchTowers:
    """cn-clip's own module: fp32 on the CPU, fp16 on a GPU (the package's choices)."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        # cn_clip leaves dropout on: two embeddings of one text would differ.
        self._model: Any = model.eval()
        self._device = device

    @property
    def on_cpu(self) -> bool:
        """See `Towers`."""
        return self._device.type == "cpu"

    def image(self, pixels: npt.NDArray[np.float32]) -> Embeddings:
        """See `Towers`."""
        return self._compute(self._model.encode_image, pixels)

    def text(self, tokens: npt.NDArray[np.int64]) -> Embeddings:
        """See `Towers`."""
        return self._compute(self._model.encode_text, tokens)

    def _compute(self, encode: Any, values: npt.NDArray[Any]) -> Embeddings:
        import torch

        with torch.inference_mode():
            out = encode(torch.from_numpy(values).to(self._device))
            result: Embeddings = out.float().cpu().numpy()
            return result


def resolve_device(device: str) -> str:
    """Return what torch calls it; for ``auto``: CUDA where there is one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load(name: str, *, root: Path, device: str, threads: int) -> ClipModel:
    """Load a model whose weights are on disk.

    Args:
        name: of `MODELS`, or `STAND_IN`.
        root: folder of the public weights (not used for the stand-in, which is shipped).
        device: ``auto``, or what torch calls it.
        threads: that torch may use for one computation on the CPU.

    Raises:
        Exception: whatever torch or cn_clip raise for damaged weights or an unknown device.
    """
    cn_clip = import_cn_clip()
    import torch

    torch.set_num_threads(threads)
    device = resolve_device(device)
    if name == STAND_IN:
        module, context_length = _load_stand_in(cn_clip, device)
    else:
        module, _ = cn_clip.load_from_name(name, device=device, download_root=str(root))
        context_length = CONTEXT_LENGTH
    log.info("loaded CLIP model %s on %s", name, device)
    return ClipModel(
        info(name),
        TorchTowers(module, torch.device(device)),
        lambda texts: cn_clip.tokenize(texts, context_length=context_length).numpy(),
    )


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


def info(name: str) -> ClipInfo:
    """Return what is known of a model without loading it. KeyError for an unknown name."""
    if name != STAND_IN:
        return MODELS[name]
    config = _stand_in_config()
    return ClipInfo(name, dim=config["embed_dim"], resolution=config["image_resolution"])


def stand_in_weights() -> Path:
    """Return the shipped weights of the stand-in."""
    return Path(str(resources.files(__package__) / "stand_in" / "clip_cn_stand-in.pt"))


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


def _stand_in_config() -> dict[str, Any]:
    text = (resources.files(__package__) / "stand_in" / "config.json").read_text("utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def _load_stand_in(cn_clip: Any, device: str) -> tuple[torch.nn.Module, int]:
    """As `load_from_name` does, for which a configuration must lie inside the package."""
    import torch

    config = _stand_in_config()
    context_length = config.pop("context_length", CONTEXT_LENGTH)
    config.pop("input_resolution", None)
    model: torch.nn.Module = cn_clip.model.CLIP(**config)
    cn_clip.model.convert_weights(model)
    state = torch.load(stand_in_weights(), map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict(
        {k.removeprefix("module."): v for k, v in state.items() if "bert.pooler" not in k}
    )
    return (model.float() if device == "cpu" else model.to(device)), context_length


def _pixels(images: Sequence[Image.Image], side: int) -> npt.NDArray[np.float32]:
    """As ``cn_clip.clip.image_transform``: squashed to a square, bicubic, normalised."""
    squares = [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]
    values = np.stack([np.asarray(square) for square in squares]).astype(np.float32) / 255
    return np.ascontiguousarray(((values - _MEAN) / _STD).transpose(0, 3, 1, 2))


def _tokens(texts: Sequence[str], tokenize: Tokenize) -> npt.NDArray[np.int64]:
    """Tokenize, padded to the longest of the batch only: the same vectors, 1.7-3 x faster."""
    tokens = tokenize([text[:_MAX_CHARACTERS] for text in texts])
    return np.ascontiguousarray(tokens[:, : int((tokens != 0).sum(axis=1).max())])


def _normalise(embeddings: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ArithmeticError("the CLIP model computed an embedding that isn't a direction")
    return np.asarray(embeddings / lengths, np.float32)
