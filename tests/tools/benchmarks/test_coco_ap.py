"""faster-coco-eval gives pycocotools' figures, on drawn and on real annotations."""

import json
import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from benchmarks.coco_ap import ap_difference, draw_annotations, draw_detections, make_evaluator
from s4m.evaluation.coco import FasterCOCOEvaluator


def both(data, detections, json_file, limit=100):
    """The figures by pycocotools and by faster-coco-eval."""
    results = []
    for fast in (False, True):
        evaluator = make_evaluator(fast, data, detections, str(json_file), limit)
        assert isinstance(evaluator, FasterCOCOEvaluator) == fast
        results.append(evaluator.evaluate())
    return results


def drawn(folder, images, instances):
    return json.loads(Path(draw_annotations(folder, images, instances)).read_text())


def written(data, folder):
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("limit", [100, 150])
def test_it_equals_pycocotools(tmp_path, limit):
    data = drawn(tmp_path, 4, 110)
    plain, ours = both(data, draw_detections(data, 150), written(data, tmp_path), limit)
    assert set(ours) == {"bbox", "segm"} and {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-circle"} <= set(
        ours["segm"]
    )
    assert ap_difference(plain, ours)["AP in percent"] < 1e-6 and 5 < ours["segm"]["AP"] < 90


def test_the_limit_of_detections_counts(tmp_path):
    data = drawn(tmp_path, 1, 120)
    data["categories"] = data["categories"][:1]
    for annotation in data["annotations"]:
        annotation["category_id"] = 1
    found, path = draw_detections(data, 200), written(data, tmp_path)
    (few, as_few), (many, as_many) = (both(data, found, path, limit) for limit in (100, 200))
    assert as_many["segm"]["AP"] > as_few["segm"]["AP"] + 1
    assert ap_difference(few, as_few)["AP in percent"] < 1e-6 > ap_difference(many, as_many)["AP in percent"]


@pytest.mark.parametrize("case", ["nothing found", "no annotation", "one image without either"])
def test_it_equals_pycocotools_where_there_is_nothing(tmp_path, case):
    data = drawn(tmp_path, 2, 8)
    found = draw_detections(data, 100)
    if case == "nothing found":
        found = {image: [] for image in found}
    elif case == "no annotation":
        data["annotations"] = []
    else:
        data["annotations"], found[2] = [a for a in data["annotations"] if a["image_id"] == 1], []
    plain, ours = both(data, found, written(data, tmp_path))
    assert ap_difference(plain, ours)["AP in percent"] < 1e-6
    assert math.isnan(ours["segm"]["AP"]) == (case != "one image without either")


@pytest.mark.parametrize("absent", [("area",), ("iscrowd",), ("area", "iscrowd")], ids=" and ".join)
@pytest.mark.parametrize("polygons", [False, True])
def test_a_json_without_area_or_iscrowd_is_evaluated_as_with_them(tmp_path, absent, polygons):
    data = drawn(tmp_path, 3, 40)
    (height, width) = (data["images"][0][side] for side in ("height", "width"))
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 0
        if polygons:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            (rle,) = mask_util.frPyObjects(annotation["segmentation"], height, width)
            annotation["area"] = float(mask_util.area(rle))
    found = draw_detections(data, 100)
    expected, _ = both(data, found, written(data, tmp_path))
    for annotation in data["annotations"]:
        for key in absent:
            del annotation[key]
    (tmp_path / "bare").mkdir()
    plain, ours = both(data, found, written(data, tmp_path / "bare"))
    assert 5 < expected["segm"]["AP"] < 90 and not math.isnan(expected["segm"]["APs"])
    assert ap_difference(plain, expected)["AP in percent"] == 0
    assert ap_difference(plain, ours)["AP in percent"] < 1e-6


@pytest.mark.parametrize(
    ("name", "limit"),
    [("coco_mini/annotations/instances_val2017.json", 100), ("dsb2018/annotations/instances_train.json", 400)],
)
def test_it_equals_pycocotools_on_real_annotations(shared, tmp_path, name, limit):
    data = json.loads((shared / "data" / name).read_text())
    counts = np.bincount([a["image_id"] for a in data["annotations"]])
    # The most crowded ones (nuclei: 375 instances in one image), since pycocotools is slow.
    images = set(counts.argsort()[::-1][: 40 if limit == 100 else 1].tolist())
    data["images"] = [image for image in data["images"] if image["id"] in images]
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in images]
    found = draw_detections(data, limit)
    assert limit == 100 or max(map(len, found.values())) > 300
    plain, ours = both(data, found, written(data, tmp_path), limit)
    assert ap_difference(plain, ours)["AP in percent"] < 1e-6 and ours["segm"]["AP"] > 5
