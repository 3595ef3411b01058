"""Tables, plot and picture, from figures and images written by hand."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from experiments.s4m_report import (
    PANEL,
    ablation_plot,
    ablation_table,
    comparison_picture,
    comparison_table,
    differences,
)
from experiments.table import Row

SIZES = [(40, 80), (90, 60), (30, 30)]  # (H, W)


def figures(ap, quality=None):
    measured = {f"pseudo_label_quality/{key}": value for key, value in (quality or {}).items()}
    return {"student/segm/AP": ap, "student/segm/AP50": 2 * ap, "student/bbox/AP": ap + 1, "seconds": 100.0, **measured}


@pytest.fixture
def rows():
    quality = {"before/precision": 0.8, "after/precision": 0.9, "before/recall": 0.5, "after/recall": 0.6}
    quality |= {"accepted": 0.75, "match/over_segmented": 0.125, "ece/class_score": 0.25}
    quality |= {"ece/calibrated_confidence": 0.0625}
    return [
        Row("plain", "plain", {"1": figures(10.0), "2": figures(14.0)}),
        Row("more", "plain + more", {"1": figures(13.0, quality), "2": figures(15.0, quality)}, "plain"),
        Row("half", "half", {"1": figures(9.0), "2": {"failed": "the log says why"}}, "more"),
        Row("none", "none", {"1": {"failed": "x"}, "2": {"failed": "y"}}, "more"),
    ]


def test_differences_are_taken_seed_by_seed(rows):
    assert [differences(row, rows) for row in rows] == [[], [3.0, 1.0], [-4.0], []]


def test_comparison(rows):
    head, _, row, *_ = comparison_table(rows).splitlines()
    assert head.startswith("| method | student mask AP | student mask AP50 | teacher mask AP |")
    assert row == "| plain | 12.0 ± 2.8 | 24.0 ± 5.7 | - | - | 13.0 ± 2.8 | 100 ± 0 |"


def test_every_row_is_in_the_ablation(rows):
    table = ablation_table(rows).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| plain | 12.0 ± 2.8 | - | - | 24.0 ± 5.7 | - | 13.0 ± 2.8 | - |")
    assert table[3].startswith("| plain + more | 14.0 ± 1.4 | +2.0 ± 1.4 | plain |")
    cells = "| 0.800 → 0.900 | 0.500 → 0.600 | - | 0.250 → 0.062 | 0.750 ± 0.000 | 0.125 ± 0.000 | 100 ± 0 |"
    assert table[3].endswith(cells)
    assert table[4].startswith("| half (1 of 2 seeds) | 9.0 | -4.0 | plain + more |")
    assert table[5].startswith("| none (0 of 2 seeds) | - | - |")


def test_plot(rows, tmp_path):
    heights = []
    for count in (1, 4):
        ablation_plot(rows[:count], tmp_path / "plot.png", "title")
        picture = cv2.imread(str(tmp_path / "plot.png"))
        assert picture.std() > 0
        heights.append(picture.shape[0])
    assert heights[0] < heights[1]


@pytest.fixture
def truth(tmp_path):
    """Json of gray images of several sizes; in each a square instance at (4, 4)-(14, 14), in the third none."""
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((height, width, 3), 90, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        square = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [4, 4, 10, 10]}
        if number < 3:
            annotations.append(square | {"segmentation": [[4, 4, 14, 4, 14, 14, 4, 14]]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "truth.json"


def _results(folder, score: float):
    """The folder with what a student predicted: a square at (20, 20)-(28, 28) in the second image."""
    mask = np.zeros((90, 60), np.uint8, order="F")
    mask[20:28, 20:28] = 1
    code = mask_util.encode(mask)
    code["counts"] = code["counts"].decode()
    path = folder / "student" / "inference" / "coco_instances_results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"image_id": 2, "category_id": 1, "score": score, "segmentation": code}]))
    return folder


def test_columns_stand_below_their_titles_whatever_the_size_of_the_images(truth, tmp_path):
    folders = {name: _results(tmp_path / name, score) for name, score in (("sure", 0.9), ("unsure", 0.4))}
    comparison_picture(folders, truth, tmp_path, tmp_path / "comparison.png", count=3)
    picture = cv2.imread(str(tmp_path / "comparison.png"))
    column, heights = PANEL + 4, [round(PANEL * h / w) + 4 for h, w in SIZES]
    assert picture.shape == (32 + sum(heights), 3 * column, 3)
    titles = (picture[:28] < 128).any(axis=(0, 2))
    assert [titles[i * column : (i + 1) * column].any() for i in range(3)] == [True] * 3

    def is_masked(row: int, index: int, x: float, y: float) -> bool:
        """Whether the place, in pixels of the image, is under the class's red."""
        scale = PANEL / SIZES[row][1]
        pixel = picture[int(32 + sum(heights[:row]) + y * scale), int(index * column + x * scale)]
        blue, _, red = pixel.astype(int)
        return red - blue > 60

    masked = [[is_masked(row, i, 7, 7) for i in range(3)] for row in range(3)]
    assert masked == [[True, False, False], [True, False, False], [False, False, False]]
    assert [is_masked(1, i, 22, 22) for i in range(3)] == [False, True, False]
