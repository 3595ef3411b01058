"""Void in training: regions are ignored wherever the view's geometry moves them, contours are not."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image

from d2kit.rng import seeded
from s4m.config import add_s4m_config
from s4m.data.mappers import LabeledMapper

HEIGHT, WIDTH = 40, 60
BOX, THICK = (10, 5, 30, 25), (40, 10, 52, 20)  # x1, y1, x2, y2 of an object and of a void region
# five pixels around the object, and four along the image's edge
CONTOUR = [(5, 0, 10, 30), (5, 25, 35, 30), (30, 0, 35, 30), (0, 36, 60, 40)]


def config(**options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (40,), "none"
    cfg.merge_from_list([item for key, value in options.items() for item in (key.replace("__", "."), value)])
    return cfg


def rle(*boxes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = 1
    return mask_util.encode(np.asfortranarray(mask))


def annotation(box):
    x1, y1, x2, y2 = box
    return {
        "bbox": [x1, y1, x2 - x1, y2 - y1], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "segmentation": rle(box)
    }  # fmt: skip


@pytest.fixture
def record(tmp_path):
    """Function (boxes of objects, void RLE or None) -> a record."""
    path = tmp_path / "box.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)

    def make(objects, void=None):
        known = {"file_name": str(path), "image_id": 5, "height": HEIGHT, "width": WIDTH}
        return {**known, "annotations": [annotation(box) for box in objects], **({"void": void} if void else {})}

    return make


def test_region_is_ignored_and_contours_are_not(record):
    original = record([BOX], rle(THICK, (51, 0, 60, 9), *CONTOUR))
    d = LabeledMapper(config())(original)
    instances = d["instances"]
    assert "void" not in d and instances.gt_classes.tolist() == [2, -1, -1]
    assert instances.gt_boxes.tensor.tolist() == [list(BOX), [51, 0, 60, 9], list(THICK)]
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[THICK[1] : THICK[3], THICK[0] : THICK[2]] = True
    assert torch.equal(instances.gt_masks.tensor[2], expected)
    background = LabeledMapper(config(INPUT__IGNORE_VOID=False))(original)
    lines = LabeledMapper(config())(record([BOX], rle(*CONTOUR)))
    for other in (background, lines):
        assert "void" not in other and other["instances"].gt_classes.tolist() == [2]
        assert torch.equal(other["instances"].gt_masks.tensor, instances.gt_masks.tensor[:1])


def test_region_moves_with_the_flip_and_the_resize(record):
    mapper = LabeledMapper(config(INPUT__RANDOM_FLIP="horizontal", INPUT__MIN_SIZE_TRAIN=(80,)))
    found = set()
    for seed in range(6):
        with seeded(seed):
            boxes = mapper(record([BOX], rle(THICK)))["instances"].gt_boxes.tensor.tolist()
        found.add((boxes[0][0], *boxes[1]))
    assert found == {(20, 80, 20, 104, 40), (60, 16, 20, 40, 40)}


@pytest.mark.parametrize("kind", ["crop", "lsj"])
def test_region_moves_with_the_crop_as_an_object_does(record, kind):
    crop = {"INPUT__CROP__ENABLED": True, "INPUT__CROP__SIZE": [0.7, 0.7], "INPUT__RANDOM_FLIP": "horizontal"}
    jitter = {"INPUT__LSJ__ENABLED": True, "INPUT__LSJ__SIZE": 64, "INPUT__RANDOM_FLIP": "horizontal"}
    mapper, seen = LabeledMapper(config(**(crop if kind == "crop" else jitter))), []
    for seed in range(8):
        with seeded(seed):
            void = mapper(record([], rle(THICK)))["instances"]
        with seeded(seed):
            thing = mapper(record([THICK]))["instances"]
        assert void.gt_classes.tolist() == [-1] * len(thing)
        assert torch.equal(void.gt_masks.tensor, thing.gt_masks.tensor)
        assert torch.equal(void.gt_boxes.tensor, thing.gt_boxes.tensor)
        seen.append(void.gt_boxes.tensor.sum().item())
    assert len(set(seen)) > 3


def test_wrong_void_names_the_image(record):
    small = mask_util.encode(np.asfortranarray(np.ones((3, 3), np.uint8)))
    for wrong in (small, {"counts": "?"}, [1]):
        with pytest.raises(ValueError, match=r"box\.png': its void"):
            LabeledMapper(config())(record([], wrong))


@pytest.mark.parametrize("config", ["supervised", "mask2former_supervised"])
@pytest.mark.parametrize("objects", [[], [BOX]], ids=["void-alone", "beside-an-object"])
def test_both_students_learn_beside_void(record, small_cfg, config, objects):
    cfg = small_cfg(config, semi=False, INPUT__MIN_SIZE_TRAIN=(40,), INPUT__RANDOM_FLIP="none")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model([{**LabeledMapper(cfg)(record(objects, rle(THICK))), "seed": 0}])
    assert all(torch.isfinite(value) for value in losses.values()) and (losses["loss_mask"] > 0) == bool(objects)
    sum(losses.values()).backward()
