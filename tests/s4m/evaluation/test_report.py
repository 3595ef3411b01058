"""The last figures of a training, the table of trainings, and the picture that shows them side by side."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from s4m.evaluation.report import PANEL, comparison_picture, final_metrics, format_table


def test_the_last_evaluation_counts_with_the_quality_measured_before_it(tmp_path):
    lines = [
        {"iteration": 99, "student/segm/AP": 1.0, "student/bbox/AP": 2.0},
        {"iteration": 199, "pseudo_label_quality/before/iou": 0.4, "pseudo_label_quality/before/precision": 0.5},
        {"iteration": 199, "student/segm/AP": 3.0, "teacher/segm/AP": 4.0, "loss": 9.0},
        {"iteration": 219, "loss": 8.0},
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    quality = {"pseudo_label_quality/before/iou": 0.4, "pseudo_label_quality/before/precision": 0.5}
    assert final_metrics(tmp_path) == {"iteration": 199, "student/segm/AP": 3.0, "teacher/segm/AP": 4.0} | quality


def test_a_training_without_evaluation_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "loss": 1.0}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="metrics.json' holds no evaluation"):
        final_metrics(tmp_path)


def test_a_network_that_does_not_exist_is_a_dash_in_the_table():
    rows = {"a": {"student/segm/AP": "1.5", "seconds": "7"}}
    head, rule, row = format_table(rows).splitlines()
    assert head.startswith("| method | student mask AP | student mask AP50 | teacher mask AP") and head.count("|") == 8
    assert rule.count("|") == 8 and row == "| a | 1.5 | - | - | - | - | 7 |"


SIZES = [(40, 80), (90, 60), (30, 30)]  # (H, W)


@pytest.fixture
def dataset(tmp_path) -> str:
    """Grey images of several sizes; in each a square instance at (4, 4)-(14, 14), in the third none."""
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((height, width, 3), 90, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        square = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [4, 4, 10, 10]}
        if number < 3:
            annotations.append(square | {"segmentation": [[4, 4, 14, 4, 14, 14, 4, 14]]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    return f"coco:{tmp_path / 'truth.json'}:{tmp_path}"


def _results(folder, score: float) -> None:
    """What a student found: a square at (20, 20)-(28, 28) in the second image."""
    mask = np.zeros((90, 60), np.uint8, order="F")
    mask[20:28, 20:28] = 1
    code = mask_util.encode(mask)
    found = [
        {"image_id": 2, "category_id": 1, "score": score, "segmentation": code | {"counts": code["counts"].decode()}}
    ]
    path = folder / "student" / "inference" / "coco_instances_results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found), encoding="utf-8")


def test_columns_stand_below_their_titles_whatever_the_size_of_the_images(dataset, tmp_path):
    _results(tmp_path / "sure", 0.9)
    _results(tmp_path / "unsure", 0.4)
    folders = {"sure": tmp_path / "sure", "unsure": tmp_path / "unsure"}
    picture = cv2.imread(str(comparison_picture(folders, dataset, tmp_path, images=3)))
    column, heights = PANEL + 4, [round(PANEL * h / w) + 4 for h, w in SIZES]
    assert picture.shape == (28 + 4 + sum(heights), 3 * column, 3)
    titles = (picture[:28] < 128).any(axis=(0, 2))
    assert [titles[i * column : (i + 1) * column].any() for i in range(3)] == [True] * 3

    def is_masked(row: int, column_index: int, x: float, y: float) -> bool:
        """Whether the place, in pixels of the image, is under the class's red."""
        scale = PANEL / SIZES[row][1]
        blue, _, red = picture[int(32 + sum(heights[:row]) + y * scale), int(column_index * column + x * scale)].astype(
            int
        )
        return red - blue > 60

    truth = [[is_masked(row, i, 7, 7) for i in range(3)] for row in range(3)]
    assert truth == [[True, False, False], [True, False, False], [False, False, False]]
    assert [is_masked(1, i, 22, 22) for i in range(3)] == [False, True, False]
