"""Detections as numbers, as a table, as a picture."""

import numpy as np
import pytest

from istd.deploy.detections import BOX_COLOR, MASK_COLOR, Detection, draw_overlay, find_detections, table_rows


@pytest.fixture
def probability():
    image = np.zeros((40, 50), np.float32)
    image[10:13, 20:24] = 0.6
    image[11, 21] = 0.9
    image[30, 5] = image[31, 6] = 0.75  # 8-connected
    image[0, 0] = 0.5  # not above the threshold
    return image


def test_numbers(probability):
    first, second = find_detections(probability, 0.5)
    assert first == Detection((21.5, 11.0), (20, 10, 24, 13), 12, pytest.approx(0.9))
    assert second == Detection((5.5, 30.5), (5, 30, 7, 32), 2, 0.75)
    assert len(find_detections(probability, 0.8)) == 1 and find_detections(probability, 0.95) == []


def test_table(probability):
    found = find_detections(probability, 0.5)
    assert table_rows(found) == [[21.5, 11.0, 20, 10, 24, 13, 12, 0.9], [5.5, 30.5, 5, 30, 7, 32, 2, 0.75]]
    assert table_rows([]) == []


def test_overlay(probability):
    gray = np.full((40, 50), 7.0, np.float32)
    found = find_detections(probability, 0.5)
    picture = draw_overlay(gray, probability > 0.5, found)
    assert picture.shape == (40, 50, 3) and picture.dtype == np.uint8
    assert tuple(picture[10, 20]) == MASK_COLOR, "the mask's outline"
    assert tuple(picture[6, 20]) == BOX_COLOR, "the box stands off the target"
    assert not draw_overlay(gray, probability > 2, []).any()
