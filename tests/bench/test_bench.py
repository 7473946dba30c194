"""The benchmark's arithmetic, and one comparison of the real things."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from bench import __main__, machine
from bench.accuracy import SPOILED, share_right
from bench.material import Sample, previews, stamped
from bench.measure import Figure, in_turns, latencies, rates
from bench.models import ocr
from bench.report import Report, show, to_json
from bench.stage import Plan, Stage
from indexer.models.images import decode
from indexer.settings import Settings, SettingsError

TINY = Plan(rounds=1, seconds=0, per_kind=1, photos=1, requests=1, queries=1)


def test_turns_alternate_and_the_first_round_only_warms_up() -> None:
    called: list[tuple[str, int]] = []

    def measure(name: str, number: int) -> float:
        called.append((name, number))
        return float(number)

    found = in_turns({name: lambda n, name=name: measure(name, n) for name in "AB"}, 3, 60)  # type: ignore[misc]
    assert found == {"A": [1, 2, 3], "B": [1, 2, 3]}
    assert "".join(name for name, _ in called) == "ABBAABBA"


def test_two_rounds_at_least_when_time_is_up() -> None:
    assert in_turns({"A": float}, 9, 0)["A"] == [1, 2]


def test_ratios_are_of_the_same_round() -> None:
    row = rates("x", "y", "ours", "/s", [10, 40, 90], "theirs", [5, 10, 30], at_least=3)
    assert row.ratio == Figure(3, 2.5, 3.5)
    assert row.goal is not None
    assert row.goal.met
    assert row.goal.text == "≥ 3 ×"


def test_differences_are_in_milliseconds() -> None:
    row = latencies("x", "y", "ours", [0.030, 0.050], "bare", [0.020, 0.030], at_most_more=5)
    assert row.difference == Figure(pytest.approx(15), pytest.approx(12.5), pytest.approx(17.5))
    assert row.goal is not None
    assert not row.goal.met


def test_too_few_and_too_many_characters_count_alike() -> None:
    assert share_right([(["总计: 12", "谢谢"], ["谢 谢", "总计：12"])]) == 1
    assert share_right([(["总计"], ["总"]), (["12"], ["12"])]) == 3 / 4
    assert share_right([(["总计12"], ["总计12谢谢光临"])]) == 1 / 2


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=list(SPOILED))
def test_what_is_spoilt_is_still_a_picture(spoil: Callable[[Image.Image], Image.Image]) -> None:
    assert min(spoil(Image.new("RGB", (900, 600), "white")).size) >= 200


def test_a_stamp_changes_the_file_and_not_the_picture(tmp_path: Path) -> None:
    jpeg = previews(tmp_path)[0].path.read_bytes()
    one, two = (
        decode(data, max_bytes=10**8, max_pixels=10**8)
        for data in (stamped(jpeg, 1), stamped(jpeg, 2))
    )
    assert one.sha256 != two.sha256
    assert one.image.tobytes() == two.image.tobytes()


def test_the_real_things_side_by_side(tmp_path: Path) -> None:
    with Stage(Settings(), TINY, time.process_time) as stage:
        stage.products = ["auto"]
        Image.new("RGB", (320, 320), "white").save(tmp_path / "blank.jpg")
        stage.samples = [Sample(tmp_path / "blank.jpg", "blank", lines=())]
        report = Report.begin(machine.look(), stage.clip_model, stage.weights_are, cpu=True)
        report.rows += ocr(stage)
        report.engines = stage.engines()
    out = io.StringIO()
    show(report, Console(file=out, width=180))
    assert "all of these" in out.getvalue()
    found = json.loads(to_json(report))
    assert found["machine"]["cores"] >= 1
    for row in found["rows"]:
        assert (row["section"], row["against"], row["rounds"]) == ("OCR", "library", 1)
        assert row["ratio"]["median"] > 0


def test_a_model_that_cn_clip_does_not_have() -> None:
    with pytest.raises(SettingsError, match="CLIP_MODEL is 'stand-in'"):
        Stage(Settings(clip_model="stand-in"), TINY)


def test_an_unknown_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["--only", "clip,astrology"])
    assert "no section astrology; there are clip" in capsys.readouterr().err
