"""cn-clip's towers through OpenVINO: converted once, kept beside the weights, checked when loaded.

The cache is a folder per weights file, named by the hash of the weights and OpenVINO's version,
with the two networks and a probe: inputs, and what PyTorch computes for them. A process that finds
it never imports PyTorch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer.models import clip, openvino_cpu
from indexer.models.cores import Share
from indexer.models.openvino_cpu import Network
from indexer.models.types import ClipInfo, Embeddings, Side

if TYPE_CHECKING:
    import torch

# Least cosine between what bf16 and PyTorch's fp32 compute for the probe.
LEAST_COSINE = 0.999
# Most difference of any number of an embedding, of length 1, between f32 here and in PyTorch.
MOST_DIFFERENCE = 1e-4
# Weights kept in half the bytes may change an embedding no more than rounding does.
_LOSSLESS = 1e-5

# Goes into the cache's name: another form of the files gets another.
_FORMAT = 1
_MOST_AT_ONCE = 16

log = logging.getLogger(__name__)


class InaccurateError(Exception):
    """What OpenVINO computes here isn't what PyTorch does; the message says by how much."""


class OpenVinoTower:
    """One half of a cn-clip model. May be called from several threads at once."""

    on_cpu = True

    def __init__(self, network: Network) -> None:
        self._network = network
        self.kind = f"OpenVINO {network.precision}"

    def __call__(self, values: npt.NDArray[Any]) -> Embeddings:
        """See `clip.Tower`."""
        parts = range(0, len(values), _MOST_AT_ONCE)
        return np.concatenate([self._network(values[i : i + _MOST_AT_ONCE]) for i in parts])


def load_tower(
    info: ClipInfo,
    side: Side,
    *,
    weights: Path,
    cache: Path,
    load_module: Callable[[], torch.nn.Module],
    precision: str,
    share: Share,
) -> OpenVinoTower:
    """Load one half, converting both where the cache has none.

    Args:
        weights: the file.
        cache: folder that the cache's folders are in; where it can't be written to, the model is
            converted at every load.
        load_module: loads the weights into cn_clip's module, fp32, on the CPU.
        precision: ``auto`` or ``exact``, see PRECISION.

    Raises:
        InaccurateError: no precision passed its check.
        Exception: what openvino, torch or cn_clip raise.
    """
    with _converted(info, weights, cache, load_module) as (folder, made_now):
        try:
            return _checked(info, side, folder, precision, share)
        except InaccurateError:
            raise
        except Exception as error:
            if made_now:
                raise
            # Files can be cut short when a machine loses its power.
            log.warning("%s is damaged (%s): converting again", folder, error)
            shutil.rmtree(folder)
    with _converted(info, weights, cache, load_module) as (folder, _):
        return _checked(info, side, folder, precision, share)


def _checked(
    info: ClipInfo, side: Side, folder: Path, precision: str, share: Share
) -> OpenVinoTower:
    """Compile in the fastest precision that computes the probe as PyTorch did."""
    probe = np.load(folder / f"{side}.npz")
    why = ""
    for candidate in openvino_cpu.precisions(precision):
        model = openvino_cpu.core().read_model(folder / f"{side}.xml")
        if candidate == "f32":
            _keep_activations_apart(model)
        network = Network(model, precision=candidate, share=share)
        why = _fault(network(probe["given"]), probe["expected"], candidate)
        if not why:
            return OpenVinoTower(network)
        log.warning("CLIP %s %s isn't computed in %s: %s", info.name, side, candidate, why)
    raise InaccurateError(f"OpenVINO computes other embeddings than PyTorch ({why})")


def _keep_activations_apart(model: Any) -> None:
    """Put something between QuickGELU, x · sigmoid(1.7 · x), and the layer that x comes from.

    OpenVINO would compute both as one, for which it has no f32 kernel as fast as MLAS's, which it
    takes for a layer alone: 12 of ViT-B-16's 49 layers took 162 ms in place of 117 with AVX2, the
    picture 418 in place of 397. bf16 is another matter.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Sigmoid":
            continue
        factors = node.input_value(0).get_node().input_values()
        for x in factors:
            shape = x.get_partial_shape()
            if x.get_node().get_type_name() == "Add" and shape.rank.get_length() == 3:
                # The shape that it has; 0: as it is. One that OpenVINO sees through has no effect.
                same = opset13.constant([0, -1, shape[2].get_length()], np.int64)
                users = x.get_target_inputs()
                apart = opset13.reshape(x, same, special_zero=True).output(0)
                for user in users:
                    user.replace_source_output(apart)


@contextmanager
def _converted(
    info: ClipInfo, weights: Path, cache: Path, load_module: Callable[[], torch.nn.Module]
) -> Iterator[tuple[Path, bool]]:
    """Give a folder with the converted model, and whether it had to be made."""
    stat = weights.stat()
    digest = _digest(weights, stat.st_size, stat.st_mtime_ns)
    name = f"{weights.stem}.openvino-{openvino_cpu.version()}-{_FORMAT}-{digest[:16]}"
    kept = cache / name
    if kept.is_dir():
        yield kept, False
        return
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache))
            stack.callback(shutil.rmtree, made, ignore_errors=True)
        except OSError as error:
            log.warning(
                "%s can't be written to (%s): %s is converted for OpenVINO at every start",
                cache,
                error.strerror,
                info.name,
            )
            made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            kept = made
        log.info("converting %s for OpenVINO, once: %s", info.name, kept)
        _convert(info, load_module(), made)
        if made is not kept:
            # Another process may have been faster; its folder is as good.
            with contextlib.suppress(OSError):
                made.chmod(0o755)
                made.rename(kept)
            for old in cache.glob(f"{weights.stem}.openvino-*"):
                if old != kept:
                    shutil.rmtree(old, ignore_errors=True)
        yield (kept if kept.is_dir() else made), True


@functools.lru_cache(maxsize=4)
def _digest(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - what it is cached by
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(info: ClipInfo, module: torch.nn.Module, folder: Path) -> None:
    """Write both halves, and what PyTorch computes for the probe, into a folder."""
    import openvino
    import torch

    class Half(torch.nn.Module):
        def __init__(self, side: Side) -> None:
            super().__init__()
            self.module: Any = module
            self.side = side

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            encoded: torch.Tensor = getattr(self.module, f"encode_{self.side}")(values)
            return encoded

    module.eval()
    for side in clip.SIDES:
        half = Half(side)
        given = clip.probe(info, side)
        with torch.inference_mode():
            expected = half(torch.from_numpy(given)).numpy()
        np.savez(folder / f"{side}.npz", given=given, expected=expected)
        model = _traced(half, torch.from_numpy(given))
        free = openvino.Dimension(-1)
        rest = [free] if side == "text" else [3, info.resolution, info.resolution]
        model.reshape(openvino.PartialShape([free, *rest]))
        path = folder / f"{side}.xml"
        # The published weights are of half precision: half the bytes, then, hold them all.
        for halved in (True, False):
            openvino.save_model(model, path, compress_to_fp16=halved)
            computed = Network(path, precision="f32", share=Share(1, 1))(given)
            if _difference(computed, expected) <= _LOSSLESS:
                break


def _traced(half: torch.nn.Module, example: torch.Tensor) -> Any:
    """As `openvino.convert_model`, which would report to Google Analytics."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    # The tracer warns of shapes that it takes for constants; the probe will tell.
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # Named: the frontend doesn't keep it alive.
        decoder = TorchScriptPythonDecoder(half, example_input=(example,))
        return frontend.convert(frontend.load(decoder))


def _fault(computed: Embeddings, expected: Embeddings, precision: str) -> str:
    """Say what is wrong with embeddings, or nothing."""
    if not np.isfinite(computed).all():
        return "not all numbers are finite"
    if precision == "f32":
        difference = _difference(computed, expected)
        return f"numbers differ by {difference:.1g}" if difference > MOST_DIFFERENCE else ""
    cosine = float((_unit(computed) * _unit(expected)).sum(axis=1).min())
    return f"the cosine is {cosine:.5f}" if cosine < LEAST_COSINE else ""


def _difference(computed: Embeddings, expected: Embeddings) -> float:
    return float(np.abs(_unit(computed) - _unit(expected)).max())


def _unit(embeddings: Embeddings) -> Embeddings:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)
