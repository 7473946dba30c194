"""How the jobs of one claimed batch end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from inferences import LINE, Inferences
from PIL import Image

from indexer import process
from indexer.media import MediaAwayError
from indexer.models import images
from indexer.models.batching import EngineClosed
from indexer.models.images import Photo
from indexer.models.types import ModelUnavailable, OcrOptions, TimeLimitError
from indexer.process import Processor
from indexer.queue import Failure, Job, Outcome
from indexer.results import Text, Unchanged, Vector
from indexer.settings import Settings

OPTIONS = OcrOptions()


@pytest.fixture
def engine() -> Inferences:
    return Inferences()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def processor(engine: Inferences, media: Path) -> Processor:
    settings = Settings(
        db_url="postgresql://x/y",
        media_map=f"/data={media}",
        max_image_bytes=100_000,
        max_image_pixels=1_000_000,
    )
    return Processor(settings, engine)  # type: ignore[arg-type]


def picture(path: Path, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    out = BytesIO()
    Image.new("RGB", size, "red").save(out, kind)
    path.write_bytes(out.getvalue())
    return out.getvalue()


def job(task: Any, path: str | None = "/data/a.jpg", asset: UUID | None = None, **how: Any) -> Job:
    values: dict[str, Any] = {
        "revision": 1,
        "attempts": 1,
        "force": False,
        "token": uuid4(),
        "known_hash": None,
        "known_model": None,
        "suspect": False,
        **how,
    }
    return Job(asset_id=asset or uuid4(), task=task, path=path, **values)


def both(path: str | None = "/data/a.jpg", **how: Any) -> list[Job]:
    asset = uuid4()
    return [job("ocr", path, asset, **how), job("clip", path, asset, **how)]


def run(processor: Processor, jobs: Sequence[Job]) -> list[Outcome]:
    return list(processor.run(jobs, OPTIONS, threading.Event()))


def raising(error: Exception) -> Any:
    def answer(task: str, photo: Photo) -> Any:
        raise error

    return answer


def reasons(outcomes: list[Outcome]) -> list[tuple[str, bool]]:
    failures = [outcome.result for outcome in outcomes]
    assert all(isinstance(failure, Failure) for failure in failures)
    return [(f.reason, f.permanent) for f in failures if isinstance(f, Failure)]


def test_results(processor: Processor, media: Path) -> None:
    data = picture(media / "a.jpg")
    ocr, clip = run(processor, both())
    assert isinstance(ocr.result, Text)
    assert isinstance(clip.result, Vector)
    assert (ocr.result.lines, ocr.result.model, clip.result.model) == (
        [LINE],
        "reader",
        "stand-in",
    )
    assert ocr.result.content_hash == clip.result.content_hash == hashlib.sha256(data).digest()
    assert ocr.result.file.size == len(data)


def test_a_photo_is_read_once_for_both_tasks(
    processor: Processor, engine: Inferences, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(media / "a.jpg")
    read: list[Path] = []
    original = images.read

    def counted(path: Path, **limits: Any) -> bytes:
        read.append(path)
        return original(path, **limits)

    monkeypatch.setattr(images, "read", counted)
    assert len(run(processor, both())) == 2
    assert read == [media / "a.jpg"]
    assert engine.asked == ["ocr 40x30", "clip 40x30"]


def test_every_photo_has_its_own_result(processor: Processor, media: Path) -> None:
    jobs = []
    for number in range(12):
        picture(media / f"{number}.png", (20 + number, 20), "PNG")
        jobs += both(f"/data/{number}.png")
    outcomes = run(processor, jobs)
    assert [outcome.job for outcome in outcomes] == jobs
    hashes = [o.result.content_hash for o in outcomes if isinstance(o.result, Text)]
    assert len(set(hashes)) == 12


def test_unchanged_is_not_inferred(processor: Processor, engine: Inferences, media: Path) -> None:
    known = hashlib.sha256(picture(media / "a.jpg")).digest()
    asset = uuid4()
    ocr = job("ocr", asset=asset, known_hash=known, known_model="reader")
    clip = job("clip", asset=asset, known_hash=known, known_model="stand-in")
    outcomes = run(processor, [ocr, clip])
    assert [type(outcome.result) for outcome in outcomes] == [Unchanged, Unchanged]
    assert engine.asked == []


@pytest.mark.parametrize(
    "how",
    [{"known_model": "older"}, {"known_hash": bytes(32)}, {"force": True}],
    ids=["another model", "another picture", "forced"],
)
def test_what_makes_it_infer_again(
    processor: Processor, engine: Inferences, media: Path, how: dict[str, Any]
) -> None:
    known = hashlib.sha256(picture(media / "a.jpg")).digest()
    again = job("ocr", **{"known_hash": known, "known_model": "reader", **how})
    (outcome,) = run(processor, [again])
    assert isinstance(outcome.result, Text)
    assert engine.asked == ["ocr 40x30" + (" forced" if "force" in how else "")]


def test_only_the_task_that_was_asked_for_is_forced(
    processor: Processor, engine: Inferences, media: Path
) -> None:
    picture(media / "a.jpg")
    ocr, clip = both()
    run(processor, [replace(ocr, force=True), clip])
    assert sorted(engine.asked) == ["clip 40x30", "ocr 40x30 forced"]


# Failures


def test_no_preview(processor: Processor) -> None:
    assert reasons(run(processor, both(None))) == [("the photo has no preview", True)] * 2


def test_a_missing_file_may_come_back(processor: Processor, media: Path) -> None:
    picture(media / "other.jpg")
    assert (
        reasons(run(processor, both()))
        == [("can't read /data/a.jpg: No such file or directory", False)] * 2
    )


def test_a_missing_folder_is_an_outage(processor: Processor, media: Path) -> None:
    with pytest.raises(MediaAwayError):
        run(processor, both())
    media.rmdir()
    with pytest.raises(MediaAwayError):
        run(processor, both())


def test_what_was_done_before_the_outage_counts(processor: Processor, media: Path) -> None:
    jobs = []
    for number in range(12):
        picture(media / f"{number}.jpg")
        jobs += both(f"/data/{number}.jpg")
    done = []
    batch = processor.run(jobs, OPTIONS, threading.Event())
    for outcome in batch:
        done.append(outcome)
        if len(done) == 2:
            for file in media.iterdir():
                file.unlink()
            break
    with pytest.raises(MediaAwayError):
        done += batch
    assert len(done) >= 2
    assert all(isinstance(outcome.result, Text | Vector) for outcome in done)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is a text", "not an image"),
        (b"x" * 100_001, "larger than the limit"),
    ],
)
def test_bad_files_fail_for_good(
    processor: Processor, engine: Inferences, media: Path, data: bytes, reason: str
) -> None:
    (media / "a.jpg").write_bytes(data)
    for said, permanent in reasons(run(processor, both())):
        assert reason in said
        assert permanent
    assert engine.asked == []


def test_too_many_pixels(processor: Processor, media: Path) -> None:
    picture(media / "a.jpg", (2000, 1000), "PNG")
    (said, permanent), _ = reasons(run(processor, both()))
    assert "2000 x 1000 pixels are more than the limit" in said
    assert permanent


def test_bad_files_take_no_neighbour_along(processor: Processor, media: Path) -> None:
    picture(media / "good.jpg")
    (media / "bad.jpg").write_bytes(b"bad")
    jobs = [*both("/data/bad.jpg"), *both("/data/good.jpg"), *both(None), *both("/data/gone.jpg")]
    outcomes = {outcome.job: outcome.result for outcome in run(processor, jobs)}
    assert len(outcomes) == 8
    good = [type(result) for job, result in outcomes.items() if job.path == "/data/good.jpg"]
    assert good == [Text, Vector]


def test_one_model_fails(processor: Processor, engine: Inferences, media: Path) -> None:
    picture(media / "a.jpg")

    def answer(task: str, photo: Photo) -> Any:
        if task == "ocr":
            raise RuntimeError("out of luck")
        return engine.result(task, photo)

    engine.answer = answer
    ocr, clip = run(processor, both())
    assert reasons([ocr]) == [("the model failed: RuntimeError: out of luck", False)]
    assert isinstance(clip.result, Vector)


def test_a_model_that_is_away_is_an_outage(
    processor: Processor, engine: Inferences, media: Path
) -> None:
    picture(media / "a.jpg")
    engine.answer = raising(ModelUnavailable("put the file there"))
    with pytest.raises(ModelUnavailable, match="put the file there"):
        run(processor, both())


def test_a_closing_engine_charges_nobody(
    processor: Processor, engine: Inferences, media: Path
) -> None:
    picture(media / "a.jpg")
    engine.answer = raising(EngineClosed("closed"))
    assert run(processor, both()) == []


# Stopping


def test_stopped_before_it_begins(processor: Processor, engine: Inferences, media: Path) -> None:
    picture(media / "a.jpg")
    stop = threading.Event()
    stop.set()
    assert list(processor.run(both(), OPTIONS, stop)) == []
    assert engine.asked == []


def test_what_is_begun_is_finished(processor: Processor, engine: Inferences, media: Path) -> None:
    picture(media / "a.jpg")
    stop = threading.Event()

    def answer(task: str, photo: Photo) -> Any:
        stop.set()
        return engine.result(task, photo)

    engine.answer = answer
    outcomes = list(processor.run([job for _ in range(20) for job in both()], OPTIONS, stop))
    assert len(outcomes) == len(engine.asked)
    assert 2 <= len(outcomes) < 40


def test_what_takes_too_long_is_charged_to_its_own_photo(
    processor: Processor, engine: Inferences, media: Path
) -> None:
    picture(media / "a.jpg")
    picture(media / "slow.jpg", (50, 30))

    def answer(task: str, photo: Photo) -> Any:
        if photo.width == 50 and task == "ocr":
            raise TimeLimitError("ocr inference took longer than 120 s")
        return engine.result(task, photo)

    engine.answer = answer
    outcomes = run(processor, [*both("/data/slow.jpg"), *both()])
    assert [type(outcome.result) for outcome in outcomes] == [Failure, Vector, Text, Vector]
    assert reasons(outcomes[:1]) == [("ocr inference took longer than 120 s", False)]


def test_a_decoder_that_takes_too_long(
    processor: Processor, engine: Inferences, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(data: bytes, **limits: int) -> Any:
        raise TimeLimitError("decoding took longer than 120 s")

    picture(media / "a.jpg")
    monkeypatch.setattr(images, "decode", slow)
    assert reasons(run(processor, both())) == [("decoding took longer than 120 s", False)] * 2


def test_of_several_at_once_none_is_blamed(
    processor: Processor, engine: Inferences, media: Path
) -> None:
    picture(media / "a.jpg")
    engine.answer = raising(TimeLimitError("clip-image inference", alone=False))
    with pytest.raises(TimeLimitError):
        run(processor, both())


def test_what_was_done_before_an_outage_counts(
    processor: Processor, engine: Inferences, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_AHEAD", 4)
    for name in "abcdef":
        picture(media / f"{name}.jpg", (40 + ord(name), 30))

    def answer(task: str, photo: Photo) -> Any:
        if task == "clip":
            raise ModelUnavailable("no weights")
        return engine.result(task, photo)

    engine.answer = answer
    jobs = [job for name in "abcdef" for job in reversed(both(f"/data/{name}.jpg"))]
    outcomes: list[Outcome] = []
    with pytest.raises(ModelUnavailable):
        outcomes.extend(processor.run(jobs, OPTIONS, threading.Event()))
    assert [outcome.job.task for outcome in outcomes] == ["ocr"] * 4  # those that were begun


def test_what_is_ahead_is_bounded_in_bytes(
    processor: Processor, engine: Inferences, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_AHEAD_BYTES", 1)
    jobs = []
    for number in range(4):
        picture(media / f"{number}.jpg")
        jobs += both(f"/data/{number}.jpg")
    begun = []
    for outcome in processor.run(jobs, OPTIONS, threading.Event()):
        begun.append(len(engine.asked))
        assert isinstance(outcome.result, Text | Vector)
    # Each is begun when the one before it is done: one large photo is always let through.
    assert begun == [2, 2, 4, 4, 6, 6, 8, 8]
