"""The quality of a segmenter is its mean IoU for random points and for boxes on held-out synthetic scenes."""

import numpy as np
import torch

from s4m.pseudo_labels.masks import paired_iou, tight_boxes
from s4m.sam.segmenter import PromptableSegmenter
from s4m.sam.structures import Prompts
from tiny_sam.scenes import make_scenes

HELD_OUT_SEED = 2_000_003


def object_prompts(
    labels: np.ndarray, points: int, rng: np.random.Generator, most: int = 8
) -> tuple[Prompts, np.ndarray]:
    """Return prompts for up to `most` objects of labels (H, W) int, 0 background, and their masks (N, H, W) bool.

    A prompt has `points` points, drawn uniformly in its object, or with 0 points the object's box.
    """
    marks = rng.permutation(np.setdiff1d(labels, [0]))[:most]
    masks = np.stack([labels == mark for mark in marks])
    pixels = [np.argwhere(mask)[:, ::-1] for mask in masks]
    chosen = np.stack([inside[rng.integers(len(inside), size=points)] for inside in pixels])
    coordinates = torch.tensor(chosen, dtype=torch.float32)
    boxes = None if points else tight_boxes(torch.from_numpy(masks))
    return Prompts(coordinates, torch.ones(coordinates.shape[:2]), boxes), masks


def mean_iou(
    segmenter: PromptableSegmenter, scenes: tuple[np.ndarray, np.ndarray], points: int, seed: int = 0
) -> float:
    """Return the mean IoU of the best-rated mask over the scenes' objects; `points` is as in `object_prompts`."""
    rng = np.random.default_rng(seed)
    scores = []
    for start in range(0, len(scenes[0]), 8):
        images = [torch.from_numpy(image).permute(2, 0, 1) for image in scenes[0][start : start + 8]]
        prompted = [object_prompts(labels, points, rng) for labels in scenes[1][start : start + 8]]
        answers = segmenter.decode(segmenter.encode(images), [prompts for prompts, _ in prompted], best=True)
        for answer, (_, truth) in zip(answers, prompted, strict=True):
            masks = answer.masks[:, 0].cpu() > 0
            scores += paired_iou(masks, torch.from_numpy(truth)).tolist()
    return float(np.mean(scores))


def measure(segmenter: PromptableSegmenter, images: int = 200) -> dict[str, float]:
    """Return the mean IoU for 1 and 3 random points and for a box on `images` held-out scenes."""
    scenes = make_scenes(HELD_OUT_SEED, images)
    counts = {"miou_1_point": 1, "miou_3_points": 3, "miou_box": 0}
    return {name: round(mean_iou(segmenter, scenes, points), 4) for name, points in counts.items()}
