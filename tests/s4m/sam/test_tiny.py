"""The tiny SAM: its size, its facts, and how well it segments scenes it has not seen."""

import json
from pathlib import Path

import numpy as np
import torch

import s4m.sam
from s4m.sam import build_segmenter
from s4m.sam.tiny import TinyEncoder, build_tiny_sam
from s4m.sam.tiny_quality import HELD_OUT_SEED, mean_iou, object_prompts
from s4m.sam.training_shapes import make_scenes

FOLDER = Path(s4m.sam.__file__).parent


def test_shapes_and_size():
    assert TinyEncoder()(torch.zeros(2, 3, 128, 128)).shape == (2, 128, 16, 16)
    assert 1e6 < sum(p.numel() for p in build_tiny_sam().parameters()) < 2e6
    assert (FOLDER / "tiny_sam.pth").stat().st_size < 5e6


def test_the_package_tells_how_the_weights_came_to_be():
    facts = json.loads((FOLDER / "tiny_sam.json").read_text())
    assert {"command", "seed", "iterations", "minutes", "machine", "parameters", "held_out"} <= set(facts)
    assert facts["parameters"] == sum(p.numel() for p in build_tiny_sam().parameters())
    assert {"miou_1_point", "miou_3_points", "miou_box"} <= set(facts["held_out"])


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
