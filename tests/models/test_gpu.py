"""PyTorch on a GPU: batches that fit its memory. With stand-ins for the GPU, and on a real one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.models import clip, clip_torch
from indexer.models.clip_torch import TorchTower


class Gpu:
    """Computes so many at once, and is out of memory with one more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fits: int, *, on: str = "cuda") -> None:
        import torch

        self.fits = fits
        self.batches: list[int] = []
        self.tower = TorchTower(torch.nn.Identity(), "image", torch.device(on))
        monkeypatch.setattr(self.tower, "_compute", self.compute)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def compute(self, values: Any) -> Any:
        import torch

        self.batches.append(len(values))
        if len(values) > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return values * 2


def test_out_of_memory_halves_the_batch_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = Gpu(monkeypatch, fits=30)
    values = np.arange(100, dtype=np.float32).reshape(100, 1)
    assert np.array_equal(gpu.tower(values), values * 2)
    assert gpu.batches == [100, 50, 25, 25, 25, 25]
    assert "cuda is out of memory with a batch of 100, going on with 50" in caplog.text
    gpu.batches.clear()
    gpu.tower(values)
    assert gpu.batches == [25, 25, 25, 25]  # learnt


def test_out_of_memory_in_the_middle_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, fits=64)
    gpu.tower._most = 64
    values = np.arange(150, dtype=np.float32).reshape(150, 1)
    gpu.tower(values[:64])
    gpu.fits = 20  # another process took the rest
    assert np.array_equal(gpu.tower(values), values * 2)


def test_one_that_doesn_t_fit_is_the_caller_s_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    gpu = Gpu(monkeypatch, fits=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gpu.tower(np.zeros((4, 1), np.float32))
    assert gpu.batches == [4, 2, 1]


@pytest.mark.parametrize(
    ("free", "workers", "expected"), [(8e9, 1, 40), (8e9, 2, 20), (64e9, 1, 256), (1e6, 2, 1)]
)
def test_batches_are_sized_by_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: float, workers: int, expected: int
) -> None:
    import torch

    gpu = Gpu(monkeypatch, fits=10**6)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(80e9)))
    gpu.tower.fit(np.zeros((1, 1), np.float32), workers)
    gpu.batches.clear()
    gpu.tower(np.zeros((300, 1), np.float32))
    assert gpu.batches[0] == expected


def test_on_the_cpu_batches_are_small_whatever_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, fits=10**6, on="cpu")
    gpu.tower.fit(np.zeros((1, 1), np.float32), 2)
    gpu.tower(np.zeros((40, 1), np.float32))
    assert gpu.batches == [16, 16, 8]


@pytest.fixture
def tower() -> TorchTower:
    return clip_torch.load_tower(
        clip_torch.STAND_IN, "image", root=Path(), device="cuda", threads=1
    )


@pytest.mark.gpu
def test_a_real_gpu_says_how_much_fits(tower: TorchTower) -> None:
    tower.fit(clip.probe(clip.info(clip_torch.STAND_IN), "image")[:1], 2)
    assert 1 <= tower._most <= 256


@pytest.mark.gpu
def test_threads_on_a_real_gpu_don_t_mix_their_results(tower: TorchTower) -> None:
    values = np.random.default_rng(4).standard_normal((64, 3, 64, 64)).astype(np.float32)
    expected = [tower(values[i : i + 8]) for i in range(0, 64, 8)]
    seen: dict[int, Any] = {}

    def work(i: int) -> None:
        for _ in range(20):
            seen[i] = tower(values[8 * i : 8 * i + 8])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(expected):
        assert seen[i] == pytest.approx(result, abs=1e-2)
