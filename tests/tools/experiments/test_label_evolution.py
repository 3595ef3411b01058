"""The picture of label evolution."""

import cv2
import numpy as np

from d2kit.config_files import compose_config
from d2kit.files import write_png
from experiments.label_evolution import HEADER, choose_records, evolution_picture, spread
from istd import add_istd_config
from istd.data.synthetic import write_scenes
from istd.engine.data import load_datasets
from istd.engine.labels import PseudoLabels


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


def test_picture_shows_image_truth_and_versions(tmp_path):
    write_scenes(tmp_path / "scenes", 10, seed=3, size=(48, 64), splits=(0.6, 0.2), empty_share=0.0)
    records = load_datasets([f"sirst:{tmp_path / 'scenes'}:train.txt"], "DATASETS.TRAIN")
    files = ["istd/networks/alcnet.yaml", "istd/schemes/pal.yaml", "quick/overlays/scenes.yaml"]
    cfg = compose_config(files, ["OUTPUT_DIR", str(tmp_path), "ISTD.LABELS.EASY_SHARE", 0.3], [add_istd_config])
    labels = PseudoLabels(cfg, records)
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
