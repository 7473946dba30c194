"""Corners and reading order, without any model."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest

from indexer.models.layout import Box, cut_out, from_top_left, reading_order, size, tilt


def rectangle(center: tuple[float, float], along: float, across: float, degrees: float) -> Box:
    """Clockwise from the top left of text of that length, turned clockwise by `degrees`."""
    corners = np.array([[-along, -across], [along, -across], [along, across], [-along, across]]) / 2
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (corners @ turn + center).astype(np.float32)


@pytest.mark.parametrize("degrees", [-58, -45, -30, -5, 0, 5, 30, 45, 58])
def test_the_corner_at_the_start_of_the_text_comes_first(degrees: float) -> None:
    box = rectangle((500, 500), 200, 30, degrees)
    for shift in range(4):
        for corners in (np.roll(box, shift, axis=0), np.roll(box, shift, axis=0)[::-1]):
            assert from_top_left(corners) == pytest.approx(box)


@pytest.mark.parametrize("degrees", [-20, 0, 20])
@pytest.mark.parametrize(("along", "across"), [(30, 200), (100, 100), (100, 110)])
def test_tall_and_square_boxes_start_at_the_image_s_top_left(
    along: float, across: float, degrees: float
) -> None:
    box = rectangle((500, 500), along, across, degrees)
    assert from_top_left(box[::-1]) == pytest.approx(box)
    assert size(box) == pytest.approx((along, across), abs=1)


def test_a_crop_is_level() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    box = rectangle((150, 100), 100, 40, 30)
    cv2.fillPoly(image, [box.astype(np.int32)], (255, 255, 255))
    crop = cut_out(image, box)
    assert crop.shape[1::-1] == pytest.approx((100, 40), abs=1)
    assert crop[3:-3, 3:-3].min() == 255


@pytest.mark.parametrize("degrees", [0, 10, -25, 90, 180, 270])
def test_rows_are_read_in_order_however_the_page_lies(degrees: float) -> None:
    angle = np.radians(degrees)
    along = np.array([np.cos(angle), np.sin(angle)], np.float32)
    across = np.array([-np.sin(angle), np.cos(angle)], np.float32)
    middle = np.array([500, 500])
    # Three rows of two cells each, each a little out of line.
    cells = [
        rectangle(
            tuple(middle + along * (150 * column) + across * (50 * row + (row + column) % 2 * 6)),
            100,
            30,
            degrees,
        )
        for row in range(3)
        for column in range(2)
    ]
    shuffled = random.Random(3).sample(range(6), 6)
    order = reading_order([cells[i] for i in shuffled], [along] * 6, [4] * 6)
    assert [shuffled[i] for i in order] == list(range(6))


def test_columns_of_vertical_chinese_are_read_from_right_to_left() -> None:
    columns = [rectangle((100 * i + 100, 300), 40, 400, 0) for i in range(3)]
    down = np.array([0, 1], np.float32)
    assert reading_order(columns, [down] * 3, [10] * 3) == [2, 1, 0]


def test_the_way_of_most_of_the_text_counts() -> None:
    right, left = np.array([[1, 0], [-1, 0]], np.float32)
    rows = [rectangle((100, 50 * i + 50), 100, 30, 0) for i in range(3)]
    assert reading_order(rows, [right, left, right], [3, 5, 4]) == [0, 1, 2]
    assert reading_order(rows, [right, left, right], [3, 9, 4]) == [2, 1, 0]


def test_no_lines() -> None:
    assert reading_order([], [], []) == []


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0, 0), (90, 0), (180, 0), (45, 1), (-45, 1), (30, 0.866), (15, 0.5)]
)
def test_tilt(degrees: float, expected: float) -> None:
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for width, height in ((200, 20), (20, 200)):
        box = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ rotation.T
        assert tilt(box.astype(np.float32)) == pytest.approx(expected, abs=0.01)
