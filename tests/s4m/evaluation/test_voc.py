import json
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from s4m.data.datasets_by_path import resolve_datasets
from s4m.data.voc_instances import VOC_CLASSES, prepare_voc, read_voc
from s4m.evaluation.build import build_evaluator
from s4m.evaluation.voc import VOCBoxEvaluator, VOCInstanceEvaluator, WithoutVoid, average_precision

SIZE = (10, 20)


def ap(rows, count, threshold=0.5):
    """AP of rows (score, IoU, object)."""
    columns = np.array(rows, float).reshape(-1, 3)
    return average_precision(columns[:, 0], columns[:, 1], columns[:, 2].astype(int), count, threshold)


def test_hand_computed_curve():
    # Right, second on the same object, nothing there, right: precision 1, 1/2, 1/3, 1/2 at recall 1/3, 1/3, 1/3, 2/3.
    rows = [(0.9, 0.8, 0), (0.8, 0.9, 0), (0.7, 0.0, -1), (0.6, 0.6, 1)]
    assert ap(rows, 3) == pytest.approx(1 / 3 * 1 + 1 / 3 * 1 / 2)
    assert ap(rows[::-1], 3) == ap(rows, 3)
    assert ap(rows, 3, threshold=0.7) == pytest.approx(1 / 3)


def test_precision_is_made_monotone():
    # Wrong, right, right: precision 0, 1/2, 2/3 at recall 0, 1/2, 1; the envelope is 2/3 throughout.
    assert ap([(0.9, 0.0, -1), (0.8, 0.7, 0), (0.7, 0.7, 1)], 2) == pytest.approx(2 / 3)


def test_area_is_not_the_eleven_points_of_2007():
    # One of four objects: 0.25 by area, 3/11 by eleven points.
    assert ap([(0.9, 1.0, 2)], 4) == pytest.approx(0.25)


def test_threshold_is_inclusive_and_equal_scores_keep_their_order():
    assert ap([(0.9, 0.5, 0)], 1) == 1.0 and ap([(0.9, 0.4999, 0)], 1) == 0.0
    assert ap([(0.5, 0.9, 0), (0.5, 0.1, -1)], 1) == 1.0 and ap([(0.5, 0.1, -1), (0.5, 0.9, 0)], 1) == 0.5


def test_no_detection_is_zero_and_no_object_is_nan():
    assert ap([], 3) == 0.0
    assert np.isnan(ap([(0.9, 0.0, -1)], 0))


def test_better_overlap_of_a_second_detection_does_not_count():
    assert ap([(0.9, 0.5, 0), (0.8, 1.0, 0)], 2) == pytest.approx(0.5)
    assert ap([(0.9, 0.4, 0), (0.8, 1.0, 0)], 1) == pytest.approx(0.5)  # the first is wrong, and takes nothing


def box_mask(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def rle(mask):
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def truth(*objects, classes=3):
    """COCO content of (image id, class, mask)."""
    annotations = [
        {"id": n, "image_id": image, "category_id": kind + 1, "segmentation": rle(mask), "iscrowd": 0}
        for n, (image, kind, mask) in enumerate(objects, start=1)
    ]
    return {"categories": [{"id": k + 1} for k in range(classes)], "annotations": annotations}


def predictions(*rows, size=SIZE):
    """Output of one image from (class, score, mask)."""
    found = Instances(size)
    found.pred_masks = torch.from_numpy(np.array([mask for _, _, mask in rows], bool).reshape(-1, *size))
    found.scores = torch.tensor([score for _, score, _ in rows], dtype=torch.float32)
    found.pred_classes = torch.tensor([kind for kind, _, _ in rows], dtype=torch.int64)
    boxes = [mask_util.toBbox(rle(mask)) for _, _, mask in rows]
    found.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).reshape(-1, 4))
    return {"instances": found}


def score(data, outputs, classes=("a", "b", "c")):
    """Figures of outputs by image id."""
    evaluator = VOCInstanceEvaluator(data, classes)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()["voc"]


def test_iou_of_masks_decides():
    target = box_mask(0, 0, 5, 12)
    found = score(truth((1, 0, target)), {1: predictions((0, 0.9, box_mask(0, 0, 3, 12)))})  # IoU 36 / 60 = 0.6
    assert found["APr50"] == 100 and found["APr70"] == 0
    assert found["APr_vol"] == pytest.approx(100 * 6 / 9)  # right at 0.1 to 0.6


def test_an_iou_of_exactly_seven_tenths_is_right():
    found = score(truth((1, 0, box_mask(0, 0, 10, 1))), {1: predictions((0, 0.9, box_mask(0, 0, 7, 1)))})
    assert found["APr70"] == 100


def test_classes_and_images_are_kept_apart_and_averaged():
    left, right = box_mask(0, 0, 5, 5), box_mask(0, 10, 5, 15)
    data = truth((1, 0, left), (2, 0, left), (1, 1, right), (2, 1, right))
    outputs = {
        1: predictions((0, 0.9, left), (0, 0.8, left), (1, 0.7, left), (1, 0.6, right), (2, 0.9, right)),
        2: predictions((0, 0.3, left), (1, 0.9, left)),
    }
    found = score(data, outputs)
    # a: right, double, right: 1/2 * 1 + 1/2 * 2/3. b: wrong, wrong, right of two: 1/2 * 1/3. c has no object.
    assert found["APr50-a"] == pytest.approx(100 * 5 / 6) and found["APr50-b"] == pytest.approx(100 / 6)
    assert found["APr50"] == found["APr70"] == found["APr_vol"] == pytest.approx(50)
    assert not any(name.endswith("-c") for name in found)


def test_one_detection_over_two_objects_takes_the_one_it_overlaps_most():
    data = truth((1, 0, box_mask(0, 0, 5, 4)), (1, 0, box_mask(0, 4, 5, 10)))
    whole = box_mask(0, 0, 5, 10)
    found = score(data, {1: predictions((0, 0.9, whole), (0, 0.8, whole))})
    assert found["APr50"] == pytest.approx(50)


def test_nothing_predicted_and_nothing_there():
    assert score(truth((1, 0, box_mask(0, 0, 5, 5))), {1: predictions()})["APr_vol"] == 0
    assert score(truth((1, 0, box_mask(0, 0, 5, 5))), {})["APr50"] == 0
    assert np.isnan(score(truth(), {1: predictions((0, 0.9, box_mask(0, 0, 5, 5)))})["APr50"])


def test_crowds_are_no_objects():
    data = truth((1, 0, box_mask(0, 0, 5, 5)), (1, 1, box_mask(0, 0, 5, 5)))
    data["annotations"][1]["iscrowd"] = 1
    assert "APr50-b" not in score(data, {1: predictions((1, 0.9, box_mask(0, 0, 5, 5)))})


def test_processes_are_gathered(monkeypatch):
    mask = box_mask(0, 0, 5, 5)
    evaluator = VOCInstanceEvaluator(truth((1, 0, mask), (2, 0, mask)), ["a", "b", "c"])
    evaluator.reset()
    evaluator.process([{"image_id": 2}], [predictions((0, 0.9, mask))])
    other = list(evaluator._detections)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [predictions((0, 0.9, mask))])
    assert evaluator.evaluate()["voc"]["APr50"] == pytest.approx(50)
    monkeypatch.setattr("s4m.evaluation.voc.comm.gather", lambda rows, dst: [rows, other])
    assert evaluator.evaluate()["voc"]["APr50"] == 100
    monkeypatch.setattr("s4m.evaluation.voc.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() is None


def test_void_is_cut_off_predictions():
    target, void = box_mask(0, 0, 5, 5), box_mask(0, 5, 10, 20)
    rows = (0, 0.9, box_mask(0, 0, 5, 20)), (0, 0.95, box_mask(2, 6, 8, 9)), (0, 0.2, box_mask(0, 0, 0, 0))
    inner = VOCInstanceEvaluator(truth((1, 0, target), (2, 0, target)), ["a", "b", "c"])
    evaluator = WithoutVoid([inner], {1: rle(void)})
    evaluator.reset()
    output = predictions(*rows)
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [output, predictions()])
    # The first fits exactly, the second is dropped, the empty one stays wrong.
    assert [(row[1], row[2]) for row in inner._detections] == [(pytest.approx(0.9), 1.0), (pytest.approx(0.2), 0.0)]
    assert evaluator.evaluate()["voc"]["APr50"] == pytest.approx(50)
    assert output["instances"].pred_masks[0].sum() == 100  # the network's answer is as it was


MARKS = (("pose", "Left"), ("truncated", 0), ("difficult", 0))


def write_xml(voc, name, objects, marks=MARKS):
    """VOC's xml with a fraction in a coordinate, objects (class, mask); boxes count from 1 and hold their ends."""
    root = ET.Element("annotation")
    for kind, mask in objects:
        item = ET.SubElement(root, "object")
        for key, value in (("name", VOC_CLASSES[kind]), *marks):
            ET.SubElement(item, key).text = str(value)
        x, y, w, h = mask_util.toBbox(rle(mask))
        sides = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1.25, y + 1, x + w, y + h), strict=True)
        box = ET.SubElement(item, "bndbox")
        for key, value in sides:
            ET.SubElement(box, key).text = f"{value:g}"
    (voc / "Annotations").mkdir(exist_ok=True)
    ET.ElementTree(root).write(voc / "Annotations" / f"{name}.xml")


@pytest.fixture(scope="module")
def val(voc_tree, tmp_path_factory):
    """Folder and registered name of the validation set, with the objects (class, mask) of each image by its id."""
    voc = tmp_path_factory.mktemp("val") / "VOC2012"
    shutil.copytree(voc_tree.voc, voc)
    name = f"voc:{prepare_voc(voc)['val']}:{voc}/JPEGImages"
    resolve_datasets([name])
    objects = read_voc(voc, "2007_000004")
    return voc, name, {1: [(kind - 1, objects.ids == key) for key, kind in objects.classes.items()], 2: []}


def evaluate(cfg, name, outputs):
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [outputs[record["image_id"]]])
    return evaluator.evaluate()


def test_truth_as_prediction_is_perfect(val, small_cfg, tmp_path):
    voc, name, truths = val
    cfg = small_cfg(OUTPUT_DIR=str(tmp_path))
    fat = [box_mask(2, 3, 20, 19, (40, 48)), box_mask(10, 22, 38, 46, (40, 48))]  # with the void border
    rows = [(kind, 0.9, mask) for (kind, _), mask in zip(truths[1], fat, strict=True)]
    outputs = {1: predictions(*rows, size=(40, 48)), 2: predictions(size=(40, 48))}
    found = evaluate(cfg, name, outputs)
    assert found["segm"]["AP"] == pytest.approx(100) and found["voc"]["APr_vol"] == pytest.approx(100)
    assert 0 < found["bbox"]["AP"] < 100  # these boxes hold the border, which the masks' boxes do not
    assert "voc_bbox" not in found

    for image_id, image in enumerate(("2007_000004", "2007_000005"), start=1):
        write_xml(voc, image, [(kind, mask) for kind, _, mask in rows] if image_id == 1 else [])
    assert evaluate(cfg, name, outputs)["voc_bbox"]["AP"] == pytest.approx(100)
    stray = predictions((3, 0.99, fat[0]), size=(40, 48))  # a class without an object has no AP
    assert evaluate(cfg, name, {**outputs, 2: stray})["voc_bbox"]["AP"] == pytest.approx(100)
    nothing = {1: predictions(size=(40, 48)), 2: predictions(size=(40, 48))}
    assert evaluate(cfg, name, nothing)["voc_bbox"]["AP50"] == 0
    again = VOCBoxEvaluator(name, ["2007_000004"])
    for _ in range(2):
        again.reset()
        again.process([{"file_name": "folder/2007_000004.jpg", "image_id": 1}], [outputs[1]])
        assert again.evaluate()["voc_bbox"]["AP50"] == pytest.approx(100)


@pytest.mark.parametrize("marks", [(), MARKS[1:], MARKS[:2], [(key, "") for key, _ in MARKS]])
def test_xml_without_what_voc_says_of_objects(voc_tree, tmp_path, marks):
    shutil.copytree(voc_tree.voc, tmp_path / "VOC2012")
    name = f"voc:{prepare_voc(tmp_path / 'VOC2012')['val']}:{tmp_path}/VOC2012/JPEGImages"
    resolve_datasets([name])
    mask = box_mask(2, 3, 20, 19, (40, 48))
    write_xml(tmp_path / "VOC2012", "2007_000004", [(14, mask)], marks)
    evaluator = VOCBoxEvaluator(name, ["2007_000004"])
    evaluator.reset()
    evaluator.process([{"file_name": "2007_000004.jpg", "image_id": 1}], [predictions((14, 0.9, mask), size=(40, 48))])
    assert evaluator.evaluate()["voc_bbox"]["AP50"] == pytest.approx(100)


def test_other_sets_are_scored_by_coco_alone(shapes, small_cfg, tmp_path):
    resolve_datasets([shapes.test])
    found = evaluate(
        small_cfg(OUTPUT_DIR=str(tmp_path)),
        shapes.test,
        {record["image_id"]: predictions(size=(64, 64)) for record in DatasetCatalog.get(shapes.test)},
    )
    assert set(found) == {"bbox", "segm"}


def test_real_truth_as_prediction_is_perfect(shared, small_cfg, tmp_path):
    voc = shared / "data" / "voc_mini" / "VOCdevkit" / "VOC2012"
    json_file = prepare_voc(voc, tmp_path / "json")["val"]
    name = f"voc:{json_file}:{voc}/JPEGImages"
    resolve_datasets([name])
    outputs = {}
    for image in json.loads(json_file.read_text())["images"]:
        objects, size = read_voc(voc, image["file_name"].removesuffix(".jpg")), (image["height"], image["width"])
        rows = [(kind - 1, 0.5, objects.ids == key) for key, kind in objects.classes.items()]
        outputs[image["id"]] = predictions(*rows, size=size)
    found = evaluate(small_cfg(OUTPUT_DIR=str(tmp_path)), name, outputs)
    assert found["segm"]["AP"] == pytest.approx(100) and found["voc"]["APr_vol"] == pytest.approx(100)
    assert found["bbox"]["AP"] == pytest.approx(100)
    assert found["voc_bbox"]["AP50"] > 90  # the xml's boxes were drawn by hand and hold the border
