"""What the figures were measured on, and how busy it was before."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

_PACKAGES = ("torch", "openvino", "onnxruntime", "cn-clip", "rapidocr-onnxruntime")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


class Machine(msgspec.Struct):
    """The machine and its libraries.

    Attributes:
        load: average number of runnable processes over the minute before; of others, mostly.
        flags: what the processor has of `_FLAGS`.
    """

    cpu: str
    cores: int
    flags: list[str]
    memory_gb: float
    load: float
    system: str
    python: str
    packages: dict[str, str]

    @property
    def busy(self) -> bool:
        """Whether others had a core's worth to do."""
        return self.load > max(0.5, self.cores / 4)


def look() -> Machine:
    """Look at this machine, now."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = set(fields.get("flags", "").split())
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        flags=[flag for flag in _FLAGS if flag in flags],
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
