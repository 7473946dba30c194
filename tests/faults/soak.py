"""The long run: mixed events at the fastest rate the machine holds.

`python -m faults.soak --minutes 60` (`make soak`): two workers and a gateway on a server of their
own. With the real OCR and the stand-in for CLIP inference sets the pace; with `--models stand-in`
(see `pictures`) it is the queue that does. Prints a line every half minute and the figures at the
end. It fails (exit code 1) when a process still grows after it has warmed up, when dead rows of the
job table aren't cleared away, when connections leak, or when a photo hasn't what it should have.
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from faults.auditor import audit
from faults.ground import Ground, free_port
from faults.load import Load
from faults.pictures import picture
from immich.events import FakeImmich
from pg.embedded import Server

SAMPLE_SECONDS = 30.0
WARM_UP_SECONDS = 600.0
# Jobs that may wait before Immich's events come more slowly.
BACKLOG = 200
# Requests for photos that are gone are closed every five minutes.
SETTLE_SECONDS = 900.0
# A process is flat if it grows by less than this an hour, after it has warmed up.
GROWTH_MB_AN_HOUR = 60.0

CLIP = '{"clip":{"visual":{"modelName":"cn-clip/stand-in__openai"}}}'
OCR = (
    '{"ocr":{"detection":{"modelName":"PP-OCRv5_mobile","options":{"minScore":0.5,'
    '"maxResolution":736}},"recognition":{"modelName":"PP-OCRv5_mobile","options":{"minScore":0.8}}}}'
)


@dataclass
class Sample:
    """One look.

    Attributes:
        at: seconds since the start.
        memory: resident MB by process.
        connections: to the database, ours.
        job_mb: of the job table with its indexes.
    """

    at: float
    events: int
    waiting: int
    done: int
    memory: dict[str, float]
    connections: int
    dead: int
    vacuums: int
    job_mb: float


@dataclass
class Watch:
    """Looks at everything, again and again."""

    ground: Ground
    loads: list[Load]
    processes: dict[str, subprocess.Popen[bytes]]
    started: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def look(self) -> Sample:
        ask = self.ground.ask
        dead, vacuums = self.ground.db.execute(
            "SELECT n_dead_tup, autovacuum_count FROM pg_stat_user_tables"
            " WHERE relid = 'indexer_v1.job'::regclass"
        ).fetchone() or (0, 0)
        sample = Sample(
            at=time.monotonic() - self.started,
            events=sum(load.events for load in self.loads),
            waiting=ask("SELECT count(*) FROM indexer_v1.job"),
            done=ask("SELECT coalesce(sum(done), 0)::bigint FROM indexer_v1.worker"),
            memory={name: resident_mb(one.pid) for name, one in self.processes.items()},
            connections=ask(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'immich-indexer%%'"
            ),
            dead=dead,
            vacuums=vacuums,
            job_mb=ask("SELECT pg_total_relation_size('indexer_v1.job') / 1e6::float"),
        )
        self.samples.append(sample)
        return sample


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def photo(seed: str) -> bytes:
    """With something to read, of any size and shape, as photos come."""
    rng = random.Random(seed)
    width, height = rng.choice([(96, 64), (160, 120), (320, 240), (480, 640), (1024, 300)])
    width, height = width + rng.randrange(64), height + rng.randrange(64)
    image = Image.new("RGB", (width, height), tuple(rng.randbytes(3)))
    draw = ImageDraw.Draw(image)
    for row in range(rng.randint(0, 2)):
        draw.text(
            (8, 8 + 34 * row),
            f"RE{rng.randrange(10**6)}",
            fill="black" if rng.random() < 0.5 else "white",
            font=ImageFont.load_default(26),
        )
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Asking:
    """Immich asks the gateway about photos, as it does after an upload."""

    def __init__(self, port: int, media: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/predict"
        self._media = media
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: Counter[int | str] = Counter()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(3)
        with httpx.Client(timeout=120) as client:
            while not self._stop.wait(1.0):
                previews = sorted(self._media.rglob("*_preview.jpeg"))
                try:
                    data = rng.choice(previews).read_bytes()
                    answer = client.post(
                        self._url,
                        data={"entries": rng.choice([CLIP, OCR])},
                        files={"image": ("blob", data, "application/octet-stream")},
                    )
                except (IndexError, FileNotFoundError, httpx.ConnectError):
                    continue  # nothing there yet, deleted this moment, or the gateway starts
                except httpx.TransportError as error:
                    # Among them: the connection had idled for so long that it was just closed.
                    self.answers[type(error).__name__] += 1
                    continue
                self.answers[answer.status_code] += 1


def run(minutes: float, real: bool, say: Callable[[str], None]) -> list[str]:
    """Returns what is wrong."""
    with tempfile.TemporaryDirectory(prefix="immich-indexer-soak-") as folder:
        Path(folder).chmod(0o755)
        with Server(Path(folder) / "server") as server:
            ground = Ground(server, Path(folder))
            try:
                return _run(ground, minutes, real, say)
            finally:
                ground.close()


def _run(ground: Ground, minutes: float, real: bool, say: Callable[[str], None]) -> list[str]:
    port = free_port()
    options = {
        "module": "immich_indexer" if real else "faults.process",
        "lease_seconds": 60,
        "batch_size": 16,
        "threads": 1,
        "reconcile_seconds": 60,
    }
    processes = {
        "worker 1": ground.start(**options),  # type: ignore[arg-type]
        "worker 2": ground.start(**options),  # type: ignore[arg-type]
        "gateway": ground.start("gateway", port=port, **options),  # type: ignore[arg-type]
    }
    loads = [
        Load(
            FakeImmich(ground.url, ground.immich.media_dir),
            seed,
            most=1000,
            make=photo if real else picture,
        )
        for seed in (1, 2)
    ]
    watch = Watch(ground, loads, processes)
    asking = Asking(port, ground.immich.media_dir)
    end = watch.started + minutes * 60
    say(
        f"{'min':>5} {'events/s':>9} {'jobs/s':>7} {'waiting':>8} {'dead':>6} {'job MB':>7}"
        f" {'conn.':>6}  MB of {', '.join(processes)}"
    )
    with loads[0], loads[1]:
        before = watch.look()
        while time.monotonic() < end:
            until = time.monotonic() + SAMPLE_SECONDS
            while time.monotonic() < min(until, end):
                busy = ground.ask("SELECT count(*) FROM indexer_v1.job") > BACKLOG
                for load in loads:
                    load.pause = 0.5 if busy else 0.0
                time.sleep(0.5)
            now = watch.look()
            seconds = now.at - before.at
            say(
                f"{now.at / 60:5.1f} {(now.events - before.events) / seconds:9.1f}"
                f" {(now.done - before.done) / seconds:7.1f} {now.waiting:8} {now.dead:6}"
                f" {now.job_mb:7.2f} {now.connections:6}  "
                + " ".join(f"{value:7.0f}" for value in now.memory.values())
            )
            before = now
            if gone := [name for name, one in processes.items() if one.poll() is not None]:
                return [f"ended: {', '.join(gone)}"]
    asking.stop()
    ground.settle(SETTLE_SECONDS)
    return judge(watch, asking, say) + audit(ground.db, ground.immich._here, real=real)


def judge(watch: Watch, asking: Asking, say: Callable[[str], None]) -> list[str]:
    """Print the figures; returns what is wrong."""
    first, last = watch.samples[0], watch.samples[-1]
    warm = [s for s in watch.samples if s.at >= min(WARM_UP_SECONDS, last.at / 2)]
    wrong = []
    say("")
    say(
        f"{last.events} events, {last.done} jobs done in {last.at / 60:.1f} minutes"
        f" ({last.done / last.at:.1f} a second)"
    )
    say(f"the gateway answered {dict(asking.answers)}")
    at: npt.NDArray[np.float64] = np.array([s.at for s in warm])
    for name in watch.processes:
        mb: npt.NDArray[np.float64] = np.array([s.memory[name] for s in warm])
        growth = float(np.polyfit(at, mb, 1)[0]) * 3600 if len(warm) > 2 else 0.0
        say(
            f"{name}: {first.memory[name]:.0f} MB at first, {mb[0]:.0f} warm, {mb[-1]:.0f} at the"
            f" end; trend {growth:+.1f} MB an hour"
        )
        if growth > GROWTH_MB_AN_HOUR and mb[-5:].mean() > mb[:5].mean() * 1.02:
            wrong.append(f"{name} grows by {growth:.0f} MB an hour")
    dead, sizes = max(s.dead for s in warm), [s.job_mb for s in warm]
    say(
        f"job table: at most {dead} dead rows, {last.vacuums} autovacuums,"
        f" {sizes[0]:.2f} MB warm, {sizes[-1]:.2f} MB at the end"
    )
    if not last.vacuums:
        wrong.append("autovacuum never came to the job table")
    if sizes[-1] > 1.5 * sizes[0] + 1:
        wrong.append("the job table grows")
    connections = [s.connections for s in warm]
    say(f"connections: {min(connections)} to {max(connections)}")
    if connections[-1] > connections[0] + 2:
        wrong.append("connections leak")
    if asking.answers[200] < 0.99 * asking.answers.total():
        wrong.append("the gateway failed too often")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--models", choices=["real", "stand-in"], default="real")
    asked = parser.parse_args()

    def say(text: Any) -> None:
        print(text, flush=True)  # noqa: T201

    wrong = run(asked.minutes, asked.models == "real", say)
    say("\n".join(wrong) if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
