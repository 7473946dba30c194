"""The stand-in and a public architecture, through cn_clip's own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import immich_indexer
from indexer.models import clip, clip_loader, clip_torch, images
from indexer.models.clip import ClipModel

SAMPLES = Path(immich_indexer.__file__).parent / "samples"
NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def stand_in() -> ClipModel:
    return clip.load(clip_torch.STAND_IN, root=NOWHERE, device="cpu", threads=1)


def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(5).integers(0, 256, (90, 200, 3), np.uint8)
    return [
        Image.new("RGB", (1, 1), "red"),
        Image.new("RGB", (2000, 3), "blue"),
        Image.fromarray(pixels),
        Image.fromarray(pixels.transpose(1, 0, 2).copy()),
    ]


def test_embeddings_are_directions_in_float32(stand_in: ClipModel) -> None:
    for embeddings in (
        stand_in.embed_images(pictures()),
        stand_in.embed_texts(["红色的圆", "", "a red circle", "字" * 500, " " * 10**6]),
    ):
        assert embeddings.dtype == np.float32
        assert embeddings.shape[1] == stand_in.info.dim
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-6)


def test_dropout_is_off(stand_in: ClipModel) -> None:
    first, second = stand_in.embed_texts(["红色的圆"]), stand_in.embed_texts(["红色的圆"])
    assert np.array_equal(first, second)


def test_a_batch_changes_nothing(stand_in: ClipModel) -> None:
    texts = ["圆", "一个蓝色的正方形在白色的背景上面，旁边什么也没有", "green"]
    singly = np.concatenate([stand_in.embed_texts([text]) for text in texts])
    assert stand_in.embed_texts(texts) == pytest.approx(singly, abs=1e-5)
    singly = np.concatenate([stand_in.embed_images([picture]) for picture in pictures()])
    assert stand_in.embed_images(pictures()) == pytest.approx(singly, abs=1e-5)


def test_the_same_as_cn_clip_s_own_transform_and_padding(stand_in: ClipModel) -> None:
    import torch

    cn_clip = clip_torch.import_cn_clip()
    model: Any = clip_torch.load_module(stand_in.info.name, root=NOWHERE, device="cpu").eval()
    transform = cn_clip.image_transform(stand_in.info.resolution)
    texts = ["红色的圆", "A Blue Square", "绿色的三角形" * 20]
    with torch.inference_mode():
        expected_images = model.encode_image(torch.stack([transform(p) for p in pictures()]))
        expected_texts = model.encode_text(cn_clip.tokenize(texts))
    for expected, ours in (
        (expected_images, stand_in.embed_images(pictures())),
        (expected_texts, stand_in.embed_texts(texts)),
    ):
        unit = expected / expected.norm(dim=1, keepdim=True)
        assert ours == pytest.approx(unit.numpy(), abs=1e-5)


def test_the_stand_in_knows_its_shapes(stand_in: ClipModel) -> None:
    truth = json.loads((SAMPLES / "truth.json").read_text("utf-8"))
    shapes = {entry["file"]: entry["shapes"][0] for entry in truth if entry["shapes"]}
    captions = sorted(set(shapes.values()))
    assert len(captions) >= 5
    photos = [
        images.decode((SAMPLES / name).read_bytes(), max_bytes=10**8, max_pixels=10**8).image
        for name in shapes
    ]
    likeness = stand_in.embed_images(photos) @ stand_in.embed_texts(captions).T
    nearest = [captions[i] for i in likeness.argmax(axis=1)]
    right = [seen == said for seen, said in zip(nearest, shapes.values(), strict=True)]
    assert sum(right) >= len(right) - 1, list(zip(shapes.items(), nearest, strict=True))


def test_weights_that_compute_nonsense_are_an_error(stand_in: ClipModel) -> None:
    class Broken:
        on_cpu = True
        kind = "broken"

        def __init__(self, number: float) -> None:
            self.number = number

        def __call__(self, values: Any) -> Any:
            return np.full((len(values), 64), self.number, np.float32)

    broken = ClipModel(stand_in.info, image=Broken(np.nan), text=Broken(0))
    with pytest.raises(ArithmeticError):
        broken.embed_images(pictures())
    with pytest.raises(ArithmeticError):
        broken.embed_texts(["圆"])


def test_a_public_name_loads_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RN50 is the smallest of the five; random weights, in the form of the published file."""
    import torch

    cn_clip = clip_torch.import_cn_clip()
    capsys.readouterr()
    torch.manual_seed(1)
    module = cn_clip.utils.create_model("RN50@RBT3-chinese")
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / clip_loader.FILES["RN50"][1])
    del module, state
    model = clip.load("RN50", root=tmp_path, device="cpu", threads=2)
    assert model.embed_images(pictures()[:2]).shape == (2, model.info.dim)
    assert model.embed_texts(["猫", "dog"]).shape == (2, model.info.dim)
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
def test_fp16_on_a_gpu_agrees_with_the_cpu(stand_in: ClipModel) -> None:
    gpu = clip.load(clip_torch.STAND_IN, root=NOWHERE, device="cuda", threads=1)
    assert not gpu.on_cpu
    texts = ["红色的圆", "a blue square"]
    for here, there in (
        (stand_in.embed_texts(texts), gpu.embed_texts(texts)),
        (stand_in.embed_images(pictures()), gpu.embed_images(pictures())),
    ):
        assert there.dtype == np.float32
        assert (here * there).sum(axis=1) == pytest.approx(1, abs=1e-3)


def test_our_tables_are_cn_clip_s() -> None:
    utils = clip_torch.import_cn_clip().utils
    assert dict(clip_loader.FILES) == utils._MODELS
    configs = Path(sys.modules["cn_clip.clip"].__file__ or "").parent / "model_configs"
    for name, info in clip.MODELS.items():
        config = json.loads((configs / f"{name}.json").read_text("utf-8"))
        assert (info.dim, info.resolution) == (config["embed_dim"], config["image_resolution"])
        assert info.resolution == utils._MODEL_INFO[name]["input_resolution"]
    assert set(clip.MODELS) == set(utils._MODELS)
