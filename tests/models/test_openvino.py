"""The models through OpenVINO: the same answers as PyTorch and ONNX Runtime, whatever happens."""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import immich_indexer
from indexer.models import clip, clip_openvino, clip_torch, images, ocr, openvino_cpu
from indexer.models.clip import ClipModel
from indexer.models.cores import Share
from indexer.models.ocr import OcrReader
from indexer.models.openvino_cpu import Network
from indexer.models.types import ClipInfo, OcrOptions, Side

if not openvino_cpu.installed():
    pytest.skip("OpenVINO isn't installed: pip install openvino", allow_module_level=True)

SAMPLES = Path(immich_indexer.__file__).parent / "samples"
TEXTS = ["红色的圆", "", "a red circle", "海边日落, 一家人在沙滩上散步", "字" * 500]


def small_vit() -> Any:
    """The architecture of ViT-B-16, with random weights, small enough for a test."""
    import torch

    cn_clip = clip_torch.import_cn_clip()
    torch.manual_seed(3)
    config = clip_torch.stand_in_config() | {
        "embed_dim": 96,
        "image_resolution": 96,
        "vision_layers": 3,
        "vision_width": 128,
        "vision_patch_size": 16,
    }
    for unknown in ("context_length", "input_resolution"):
        config.pop(unknown, None)
    return cn_clip.model.CLIP(**config).float().eval()


class Desk:
    """A cache, a weights file, and how often its module was loaded."""

    def __init__(self, folder: Path, info: ClipInfo, module: Any) -> None:
        self.cache = folder / "cache"
        self.weights = folder / "weights.pt"
        self.weights.write_bytes(b"weights")
        self.info = info
        self.module = module
        self.loads = 0

    def load_module(self) -> Any:
        self.loads += 1
        return self.module

    def load(self, side: Side, precision: str = "exact") -> clip_openvino.OpenVinoTower:
        return clip_openvino.load_tower(
            self.info,
            side,
            weights=self.weights,
            cache=self.cache,
            load_module=self.load_module,
            precision=precision,
            share=Share(1, 1),
        )

    def folders(self) -> list[Path]:
        return sorted(self.cache.iterdir())


@pytest.fixture(scope="module", params=["vit", "resnet"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("clip")
    if request.param == "vit":
        return Desk(folder, ClipInfo("small", 96, 96), small_vit())
    module = clip_torch.load_module(clip_torch.STAND_IN, root=Path(), device="cpu")
    return Desk(folder, clip.info(clip_torch.STAND_IN), module)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What conversion makes of the stand-in: seconds, so once."""
    folder = tmp_path_factory.mktemp("converted")
    module = clip_torch.load_module(clip_torch.STAND_IN, root=Path(), device="cpu")
    clip_openvino._convert(clip.info(clip_torch.STAND_IN), module, folder)
    return folder


@pytest.fixture
def desk(tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    def convert(info: ClipInfo, module: Any, folder: Path) -> None:
        shutil.copytree(converted, folder, dirs_exist_ok=True)

    monkeypatch.setattr(clip_openvino, "_convert", convert)
    return Desk(tmp_path, clip.info(clip_torch.STAND_IN), None)


def photos() -> list[Image.Image]:
    files = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    return [
        images.decode(path.read_bytes(), max_bytes=10**8, max_pixels=10**8).image for path in files
    ]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="MLAS: x86")
def test_activations_are_no_part_of_the_layers_before_them(tmp_path: Path) -> None:
    """They would keep them from the fastest kernel."""
    clip_openvino._convert(ClipInfo("small", 96, 96), small_vit(), tmp_path)
    given = np.load(tmp_path / "image.npz")["given"]
    computed, alone = [], []
    for apart in (False, True):
        model = openvino_cpu.core().read_model(tmp_path / "image.xml")
        if apart:
            clip_openvino._keep_activations_apart(model)
        network = Network(model, precision="f32", share=Share(1, 1))
        computed.append(network(given))
        nodes = network._compiled.get_runtime_model().get_ordered_ops()
        kinds = [str(node.get_rt_info()["layerType"].astype(str)) for node in nodes]
        alone.append(kinds.count("Eltwise"))
    assert alone[1] == alone[0] + 3
    assert computed[0] == pytest.approx(computed[1], abs=1e-5)


@pytest.mark.parametrize("precision", openvino_cpu.precisions("auto"))
def test_embeddings_are_pytorch_s(shared: Desk, precision: str) -> None:
    import torch

    wanted = "auto" if precision == "bf16" else "exact"
    model = ClipModel(
        shared.info, image=shared.load("image", wanted), text=shared.load("text", wanted)
    )
    assert model.image is not None
    assert model.image.kind == f"OpenVINO {precision}"
    cn_clip = clip_torch.import_cn_clip()
    transform = cn_clip.image_transform(shared.info.resolution)
    with torch.inference_mode():
        seen = shared.module.encode_image(torch.stack([transform(photo) for photo in photos()]))
        said = shared.module.encode_text(cn_clip.tokenize(TEXTS))
    assert len(seen) > 20
    for ours, theirs in ((model.embed_images(photos()), seen), (model.embed_texts(TEXTS), said)):
        unit = (theirs / theirs.norm(dim=1, keepdim=True)).numpy()
        assert (ours * unit).sum(axis=1).min() >= 0.999
        if precision == "f32":
            assert ours == pytest.approx(unit, abs=1e-4)
    assert shared.loads == 1


def test_what_is_kept_is_used_and_what_is_outdated_goes(desk: Desk) -> None:
    desk.load("image")
    desk.load("text")
    desk.load("text", "auto")
    assert desk.loads == 1
    (first,) = desk.folders()
    assert first.name.startswith(f"weights.openvino-{openvino_cpu.version()}-")
    desk.weights.write_bytes(b"other weights")
    desk.load("text")
    assert desk.loads == 2
    (second,) = desk.folders()
    assert second != first


def test_a_damaged_cache_is_made_again(desk: Desk) -> None:
    before = desk.load("text")(np.array([[101, 102]]))
    (kept,) = desk.folders()
    for broken in ("text.bin", "text.xml", "text.npz"):
        (kept / broken).write_bytes(b"")
        assert desk.load("text")(np.array([[101, 102]])) == pytest.approx(before)
    assert desk.loads == 4


def test_without_a_place_to_keep_it(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.cache = desk.weights / "not a folder"
    desk.load("text")
    desk.load("text")
    assert desk.loads == 2
    assert "can't be written to" in caplog.text


def test_two_processes_at_once(desk: Desk) -> None:
    """The other one has finished while we were converting."""
    load_module, other = desk.load_module, Desk(desk.weights.parent, desk.info, desk.module)

    def slowly() -> Any:
        other.load("text")
        return load_module()

    desk.load_module = slowly  # type: ignore[method-assign]
    desk.load("text")
    assert (desk.loads, other.loads) == (1, 1)
    assert len(desk.folders()) == 1


def test_bf16_that_isn_t_accurate_is_not_used(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_cpu, "precisions", lambda wanted: ["bf16", "f32"])
    monkeypatch.setattr(clip_openvino, "LEAST_COSINE", 1.1)
    assert desk.load("text", "auto").kind == "OpenVINO f32"
    assert "isn't computed in bf16: the cosine is " in caplog.text


def test_f32_that_isn_t_accurate_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda self, values: compute(self, values) + 0.01)
    with pytest.raises(clip_openvino.InaccurateError, match="numbers differ by"):
        desk.load("image")


def test_bf16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        capabilities = ("FP32", "INT8")

        def get_property(self, device: str, name: str) -> tuple[str, ...]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return self.capabilities

    monkeypatch.setattr(openvino_cpu, "core", Core)
    assert openvino_cpu.precisions("auto") == ["f32"]
    monkeypatch.setattr(Core, "capabilities", ("BF16", "FP32"))
    assert openvino_cpu.precisions("auto") == ["bf16", "f32"]
    assert openvino_cpu.precisions("exact") == ["f32"]


def test_pytorch_is_not_imported_where_it_isn_t_needed(desk: Desk) -> None:
    """It takes seconds and 0.2 GB."""
    desk.load("text")
    program = """
import sys
from pathlib import Path
from indexer.models import clip, clip_openvino, clip_torch
from indexer.models.cores import Share
from indexer.models.engine import Engine
from indexer.models.types import Lane
from indexer.settings import Settings

info = clip.info(clip_torch.STAND_IN)
tower = clip_openvino.load_tower(
    info, "text", weights=Path(sys.argv[1]), cache=Path(sys.argv[2]), load_module=None,
    precision="auto", share=Share(1, 1))
clip.ClipModel(info, text=tower).embed_texts(["圆"])
engine = Engine(Settings(device="cpu", clip_download="off"))
engine.clip_problem(), engine.device
print(sorted(sys.modules.keys() & {"torch", "cn_clip"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(desk.weights), str(desk.cache)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_ocr_that_reads_something_else_goes_back(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A recogniser that computes noise: first bf16's check fails, then f32's."""
    monkeypatch.setattr(openvino_cpu, "precisions", lambda wanted: ["bf16", "f32"])
    noise = np.random.default_rng(1)
    compute = Network.__call__

    def spoiled(self: Network, values: Any) -> Any:
        out = compute(self, values)
        return out if out.ndim == 4 else noise.random(out.shape, np.float32)

    monkeypatch.setattr(Network, "__call__", spoiled)
    with caplog.at_level(logging.WARNING):
        reader = OcrReader(share=Share(1, 1), openvino="auto", precision="auto")
    assert reader.kind == "ONNX Runtime CPU f32"
    assert "OCR doesn't run in OpenVINO bf16: another text is read" in caplog.text
    assert "OCR doesn't run in OpenVINO f32: another text is read" in caplog.text


def test_ocr_goes_on_without_an_openvino_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("this CPU isn't supported")

    monkeypatch.setattr(Network, "__init__", fail)
    reader = OcrReader(share=Share(1, 1), openvino="auto", precision="auto")
    assert reader.kind == "ONNX Runtime CPU f32"
    assert "OCR goes on in ONNX Runtime, more slowly: this CPU isn't supported" in caplog.text


def test_onnxruntime_reads_the_probe_as_it_says() -> None:
    reader = OcrReader(share=Share(1, 1))
    assert reader.kind == "ONNX Runtime CPU f32"
    expected = Path(ocr.__file__).with_name("probe") / "table.txt"
    assert reader._read_probe() == expected.read_text("utf-8").splitlines()
    assert (
        reader.read(
            images.decode(
                (SAMPLES / "shape-red-circle.jpg").read_bytes(), max_bytes=10**8, max_pixels=10**8
            ),
            OcrOptions(),
        )
        == []
    )
