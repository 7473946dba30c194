"""Everything that the sections need: files, weights, a database and the contenders."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from bench.client import Clients
from bench.contender import Contender
from bench.library import Library
from bench.material import previews, write_random_weights
from bench.measure import Clock, Name, in_turns
from bench.product import Product
from bench.service import Service
from indexer.models.clip_loader import FILES
from indexer.settings import Settings, SettingsError
from pg.connect import connect
from pg.embedded import Server
from pg.migrate import create_library_tables

T = TypeVar("T")

LIBRARY = "library"


class Plan(msgspec.Struct, frozen=True):
    """How much is measured.

    Attributes:
        rounds: of every comparison, at most.
        seconds: after which no further round of a comparison is begun; two there are always.
        per_kind: photos of each kind that are read in a round.
        photos: through the worker in a round.
        requests: of each client in a round.
        queries: while a backfill runs.
    """

    rounds: int
    seconds: float
    per_kind: int
    photos: int
    requests: int
    queries: int


FULL = Plan(rounds=5, seconds=60, per_kind=2, photos=8, requests=2, queries=50)
QUICK = Plan(rounds=2, seconds=0, per_kind=1, photos=4, requests=1, queries=10)


class Stage:
    """A context; contenders are started when they are first asked for.

    Args:
        settings: CLIP_MODEL, CLIP_DOWNLOAD_ROOT, DEVICE, THREADS … as the product has them.
        plan: how much is measured.
        clock: what seconds are measured by.

    Attributes:
        products: names of the precisions that are measured.

    Raises:
        SettingsError: CLIP_MODEL is none of cn-clip's.
    """

    def __init__(self, settings: Settings, plan: Plan, clock: Clock = time.perf_counter) -> None:
        self.plan = plan
        self.products = ["auto", "exact"]
        self._clock = clock
        if settings.clip_model not in FILES:
            raise SettingsError(
                f"CLIP_MODEL is {settings.clip_model!r}, which cn_clip itself can't load to be "
                f"compared with: take one of {', '.join(FILES)}"
            )
        self._given = settings
        self._stack = ExitStack()
        self._contenders: dict[str, Contender[Any]] = {}

    def __enter__(self) -> Stage:
        folder = tempfile.TemporaryDirectory(
            prefix="immich-indexer-bench-", ignore_cleanup_errors=True
        )
        self._folder = Path(self._stack.enter_context(folder))
        self._folder.chmod(0o755)  # started by root, PostgreSQL runs as another user
        (self._folder / "previews").mkdir()
        self.samples = previews(self._folder / "previews")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def clip_model(self) -> str:
        """cn-clip's name of the model."""
        return self._given.clip_model

    @cached_property
    def has_weights(self) -> bool:
        """Whether the public weights are on the disk; without them random ones are made."""
        root = self._given.clip_download_root.expanduser()
        return (root / FILES[self.clip_model][1]).is_file()

    def prepare_clip(self) -> None:
        """Make random weights where there are no others; before the first use of CLIP."""
        if not self._weights.exists():
            self._weights.mkdir()
            write_random_weights(self.clip_model, self._weights)

    @cached_property
    def library(self) -> Contender[Library]:
        """cn_clip and RapidOCR as their READMEs show them."""
        return self._start(
            LIBRARY, Contender(Library, self.clip_model, self._weights, self._paths, self._clock)
        )

    @cached_property
    def auto(self) -> Contender[Product]:
        """The product's models with its defaults."""
        return self._start("auto", Contender(Product, self._settings, self._paths, self._clock))

    def product(self, name: str) -> Contender[Product]:
        """The product's models in one of these precisions."""
        return self.auto if name == "auto" else self.exact

    @cached_property
    def exact(self) -> Contender[Product]:
        """The product's models with PRECISION=exact."""
        settings = msgspec.structs.replace(self._settings, precision="exact")
        return self._start("exact", Contender(Product, settings, self._paths, self._clock))

    @cached_property
    def service(self) -> Contender[Service]:
        """The whole product with its defaults, in folder mode."""
        self.prepare_clip()
        photos = self._folder / "photos"
        photos.mkdir()
        server = self._stack.enter_context(Server(self._folder / "data"))
        url = server.start()
        with connect(url) as connection:
            create_library_tables(connection)
        return self._start(
            "serve", Contender(Service, self._settings, url, photos, self._paths, self._clock)
        )

    @cached_property
    def clients(self) -> Clients:
        """Clients of the service."""
        return Clients(self.service.call(Service.address), self.clip_model, self._paths)

    @property
    def weights_are(self) -> str:
        """Which weights are measured with, in words."""
        if self.has_weights:
            return f"the public weights in {self._given.clip_download_root}"
        return "random weights of the real architecture (the public ones aren't on this disk)"

    def engines(self) -> dict[str, dict[str, str]]:
        """What each of the product's contenders runs its models on."""
        return {
            name: contender.call(Product.about)
            for name, contender in self._contenders.items()
            if name != LIBRARY
        }

    def peaks(self) -> dict[str, int]:
        """The most memory that each contender has had, in bytes."""
        return {name: contender.peak_memory() for name, contender in self._contenders.items()}

    def in_turns(
        self, measures: Mapping[Name, Callable[[int], float]], times: int = 1
    ) -> dict[Name, list[float]]:
        """`measure.in_turns`, with so many times the rounds of the plan."""
        return in_turns(measures, self.plan.rounds * times, self.plan.seconds)

    def photos(self, kind: str | None = None) -> list[int]:
        """Numbers of the photos of a kind, as many as planned; None: of all that have text."""
        if kind is None:
            return [i for i, sample in enumerate(self.samples) if sample.lines]
        of_kind = [i for i, sample in enumerate(self.samples) if sample.kind == kind]
        return of_kind[: self.plan.per_kind]

    def _start(self, name: str, contender: Contender[T]) -> Contender[T]:
        self._stack.callback(contender.close)
        self._contenders[name] = contender
        return contender

    @property
    def _weights(self) -> Path:
        if self.has_weights:
            return self._given.clip_download_root.expanduser()
        return self._folder / "weights"

    @property
    def _paths(self) -> list[Path]:
        return [sample.path for sample in self.samples]

    @cached_property
    def _settings(self) -> Settings:
        return msgspec.structs.replace(
            self._given,
            db_url="",
            db_hostname="",
            data_dir=self._folder / "data",
            clip_download_root=self._weights,
            clip_download="off",
            host="127.0.0.1",
            port=0,
            immich_api="",
            immich_url="",
        )
