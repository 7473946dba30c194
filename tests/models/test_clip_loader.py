"""What people are told while the weights are missing, and that a file put there is found."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from indexer.models import clip_loader, clip_torch
from indexer.models.clip_loader import ClipLoader
from indexer.models.types import ClipInfo, ModelUnavailable
from indexer.settings import Settings, SettingsError

PATIENCE = 30.0


def loader(root: Path, **settings: Any) -> ClipLoader:
    given = {"clip_model": "RN50", "clip_download_root": root, "clip_download": "off"}
    return ClipLoader(Settings(**(given | settings)), 1)


class Network:
    """In place of the download: waits until it may fail or write `content`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0
        self.go_on = threading.Event()
        self.content: bytes | None = None

    def download(self, name: str, root: Path, *, use_modelscope: bool) -> None:
        self.calls += 1
        assert self.go_on.wait(PATIENCE)
        if self.content is None:
            raise ConnectionError("Name or service not known")
        self.path.write_bytes(self.content)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    found = Network(tmp_path / "clip_cn_rn50.pt")
    monkeypatch.setattr(clip_torch, "download", found.download)
    return found


def finish(weights: ClipLoader) -> None:
    """Wait for the end of the download."""
    thread = weights._download
    if thread is not None:
        thread.join(PATIENCE)


def test_the_stand_in_has_no_problem_and_loads_once(tmp_path: Path) -> None:
    weights = loader(tmp_path, clip_model="stand-in")
    assert weights.info == ClipInfo("stand-in", dim=64, resolution=64)
    assert weights.problem() is None
    assert weights.get("text") is weights.get("text")


def test_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CLIP_MODEL is 'ViT-B-32'.*ViT-B-16.*stand-in"):
        loader(tmp_path, clip_model="ViT-B-32")


def test_missing_weights_say_which_file_goes_where(tmp_path: Path) -> None:
    weights = loader(tmp_path)
    problem = weights.problem()
    assert problem is not None
    assert f"put clip_cn_rn50.pt into {tmp_path}" in problem
    assert "huggingface.co/OFA-Sys/chinese-clip-rn50" in problem
    with pytest.raises(ModelUnavailable) as failure:
        weights.get("text")
    assert str(failure.value) == problem


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert loader(Path("~/weights")).path == Path("/home/somebody/weights/clip_cn_rn50.pt")


def test_damaged_weights_are_tried_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    load = clip_torch.load_tower
    monkeypatch.setattr(
        clip_torch, "load_tower", lambda *a, **k: (tries.append(a), load(*a, **k))[1]
    )
    weights = loader(tmp_path)
    path = tmp_path / "clip_cn_rn50.pt"
    path.write_bytes(b"half a file")
    assert weights.problem() is None
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match=r"can't be loaded: .*clip_cn_rn50\.pt"):
            weights.get("text")
    assert len(tries) == 1
    assert "can't be loaded" in (weights.problem() or "")
    path.write_bytes(b"another half of a file")
    assert weights.problem() is None
    os.remove(path)
    assert "put clip_cn_rn50.pt" in (weights.problem() or "")


def test_an_impossible_device_is_named(tmp_path: Path) -> None:
    weights = loader(tmp_path, clip_model="stand-in", device="toaster")
    with pytest.raises(ModelUnavailable, match="DEVICE is 'toaster'"):
        weights.get("text")


def test_a_failed_download_is_told_and_not_repeated_at_once(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = loader(tmp_path, clip_download="huggingface")
    assert "being downloaded from https://huggingface.co" in (weights.problem() or "")
    assert "being downloaded" in (weights.problem() or "")
    with pytest.raises(ModelUnavailable, match="being downloaded"):
        weights.get("text")
    network.go_on.set()
    finish(weights)
    problem = weights.problem() or ""
    assert f"put clip_cn_rn50.pt into {tmp_path}" in problem
    assert "Name or service not known" in problem
    assert network.calls == 1
    monkeypatch.setattr(clip_loader, "RETRY_SECONDS", 0.0)
    assert "being downloaded" in (weights.problem() or "")
    finish(weights)
    assert network.calls == 2


def test_a_file_put_there_during_a_download_is_found_at_once(
    tmp_path: Path, network: Network
) -> None:
    weights = loader(tmp_path, clip_download="modelscope")
    assert "modelscope.cn/models/AI-ModelScope/chinese-clip-rn50" in (weights.problem() or "")
    network.path.write_bytes(b"by hand")
    assert weights.problem() is None
    network.go_on.set()
    finish(weights)


def test_downloaded_weights_are_found(tmp_path: Path, network: Network) -> None:
    network.content = b"weights"
    weights = loader(tmp_path, clip_download="huggingface")
    assert weights.problem() is not None
    network.go_on.set()
    finish(weights)
    assert weights.problem() is None
    assert network.calls == 1


def test_a_name_that_immich_takes_and_cn_clip_has_not(tmp_path: Path) -> None:
    """No reason to end: whoever chose it in Immich can choose another one there."""
    found = loader(tmp_path, clip_model="cn-clip/ViT-B-32__openai", clip_download="huggingface")
    problem = found.problem()
    assert problem
    assert "no model 'cn-clip/ViT-B-32__openai'" in problem
    assert "cn-clip/ViT-B-16__openai" in problem
    with pytest.raises(ModelUnavailable, match="choose one of"):
        found.get("text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_weights_runs_no_code(tmp_path: Path) -> None:
    """Weights are pickles, which may hold calls of anything; torch loads data alone."""
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.write_text, (ran, "code"))

    torch.save({"state_dict": {"visual.proj": Hostile()}}, tmp_path / "clip_cn_rn50.pt")
    with pytest.raises(ModelUnavailable, match="can't be loaded"):
        loader(tmp_path).get("text")
    assert not ran.exists()
