"""The picture of label evolution."""

import cv2
import numpy as np

from d2kit.files import write_png
from istd.engine.data import load_datasets
from istd.engine.labels import PseudoLabels
from istd.engine.pictures import HEADER, choose_records, evolution_picture, spread


def test_spread_keeps_both_ends():
    assert spread([0, 1, 2, 3, 4], 3) == [0, 2, 4]
    assert spread([4], 3) == [4]
    assert spread([0, 1], 5) == [0, 1]


def test_choice_takes_each_characteristic_in_turn_and_needs_points():
    records = [
        {"image_id": name, "characteristic": kind, "points": points}
        for name, kind, points in [("a", "x", [[0, 0]]), ("b", "x", [[0, 0]]), ("c", "y", [[0, 0]]), ("d", "z", [])]
    ]
    assert [record["image_id"] for record in choose_records(records, 3)] == ["a", "c", "b"]


def test_picture_shows_image_truth_and_versions(istd_cfg, scenes, tmp_path):
    records = load_datasets([scenes.train], "DATASETS.TRAIN")
    labels = PseudoLabels(istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path)), records)
    labels.start()
    labels.update(lambda record: np.zeros((record["height"], record["width"]), np.float32), epoch=1, epochs=9)
    picture = evolution_picture(labels.folder, records, rows=2, side=32, zoom=2)
    assert picture.shape == (HEADER + 2 * 64, 4 * 64) and picture.dtype == np.uint8
    record = choose_records(records, 1)[0]
    x, y = record["points"][0]
    panel = picture[HEADER : HEADER + 64, 128:192]  # the first version: the point is white
    x0, y0 = (
        int(np.clip(c - 16, 0, max(0, n - 32)))
        for c, n in zip((x, y), (record["width"], record["height"]), strict=True)
    )
    assert panel[2 * (y - y0), 2 * (x - x0)] == 255
    write_png(tmp_path / "picture.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "picture.png"), cv2.IMREAD_GRAYSCALE), picture)
