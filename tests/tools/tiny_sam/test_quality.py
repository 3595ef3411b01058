"""How well the shipped tiny SAM segments scenes that it has not seen."""

import numpy as np

from s4m.sam import build_segmenter
from tiny_sam.quality import HELD_OUT_SEED, mean_iou, object_prompts
from tiny_sam.scenes import make_scenes


def test_quality_on_held_out_scenes():
    segmenter, scenes = build_segmenter("tiny"), make_scenes(HELD_OUT_SEED, 20)
    assert mean_iou(segmenter, scenes, points=3) > 0.77
    assert mean_iou(segmenter, scenes, points=0) > 0.78


def test_prompts_of_objects():
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 3:9] = 1
    labels[10:20, 20:30] = 4
    rng = np.random.default_rng(0)
    prompts, masks = object_prompts(labels, 3, rng)
    assert masks.shape == (2, 20, 30) and prompts.points.shape == (2, 3, 2) and prompts.boxes is None
    for where, mask in zip(prompts.points.long(), masks, strict=True):
        assert mask[where[:, 1], where[:, 0]].all()
    boxes, masks = object_prompts(labels, 0, rng)
    order = [int(mask[12, 22]) for mask in masks]
    assert boxes.boxes[order.index(0)].tolist() == [3, 2, 9, 6]
    assert boxes.boxes[order.index(1)].tolist() == [20, 10, 30, 20]
    assert len(object_prompts(labels, 1, rng, most=1)[0]) == 1
