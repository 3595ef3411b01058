"""Batches are what the tiny SAM trains on: prompts for objects of synthetic scenes, drawn by seed and iteration.

`options` are everywhere the arguments of tools/train_tiny_sam.py.
"""

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from d2kit.rng import derive_seed
from s4m.sam.tiny import IMAGE_SIZE
from tiny_sam.scenes import make_scenes

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
PROMPTS = 6  # Each image has this many prompts.
# The number of points and whether a box and a mask are given have a share of the iterations.
KINDS = {
    (1, False, False): 0.25,
    (2, False, False): 0.10,
    (3, False, False): 0.30,
    (5, False, False): 0.10,
    (0, True, False): 0.13,
    (1, True, False): 0.05,
    (3, False, True): 0.07,
}


class Batch(NamedTuple):
    """A batch has B images of side S and N = B * PROMPTS prompts, in the order of the images."""

    images: torch.Tensor  # (B, 3, S, S) float, normalized and padded.
    labels: torch.Tensor  # (B, S, S) uint8, the objects of each image.
    targets: torch.Tensor  # (N, S, S) float 0/1.
    points: torch.Tensor | None  # (N, P, 2) x, y in input pixels.
    point_labels: torch.Tensor | None  # (N, P) 1 inside of the object, 0 outside.
    boxes: torch.Tensor | None  # (N, 4) x0, y0, x1, y1 in input pixels.
    masks: torch.Tensor | None  # (N, 1, S / 2, S / 2) logits.


@dataclass
class Batches(Dataset):
    """The data set holds a training's batches by iteration; a batch depends on the seed and the iteration alone."""

    scenes: tuple[np.ndarray, np.ndarray]
    options: argparse.Namespace

    def __getitem__(self, iteration: int) -> Batch:
        rng = np.random.default_rng(derive_seed(self.options.seed, "batch", iteration))
        return make_batch(self.scenes, self.options.images, rng)

    def loader(self, start: int) -> Iterator[Batch]:
        """Return an endless iterator over the batches from iteration `start` on; the workers draw them ahead."""
        order = itertools.count(start)
        return iter(DataLoader(self, batch_size=None, sampler=order, num_workers=self.options.workers))


def _augment(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Flip, turn and recolor a scene (S, S, 3), (S, S), and sometimes cut it so that there is padding."""
    turns = rng.integers(4)
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = image[..., rng.permutation(3)].astype(np.float32)
    if rng.random() < 0.3:
        image = 255 - image
    image = (image - 127) * rng.uniform(0.6, 1.2) + 127 + rng.uniform(-30, 30, 3)
    valid = np.array(labels.shape)
    if rng.random() < 0.3:
        side = rng.integers(2)
        valid[side] = rng.integers(valid[side] // 2, valid[side])
    return np.clip(image, 0, 255)[: valid[0], : valid[1]], labels[: valid[0], : valid[1]]


def _points(mask: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` points in a mask (h, w), some moved a little; some after the first are negatives beside it."""
    inside = np.argwhere(mask)[:, ::-1]
    last = np.array(mask.shape)[::-1] - 1
    points = inside[rng.integers(len(inside), size=count)].astype(np.float32)
    labels = np.ones(count, np.float32)
    if rng.random() < 0.3:
        points += rng.normal(0, 1.2, points.shape)
    for index in range(1, count):
        if rng.random() < 0.08:
            near = np.clip(points[0] + rng.normal(0, 12, 2), 0, last)
            if not mask[int(near[1]), int(near[0])]:
                points[index] = near
                labels[index] = 0
    return np.clip(points, 0, last), labels


def _box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mask's box xyxy with its sides moved by up to a tenth of its extent."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([x, y, x + width, y + height]) + rng.uniform(-0.1, 0.1, 4) * [width, height, width, height]


def _rough_mask(target: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return logits (N, 1, S / 2, S / 2) of targets (N, S, S) that are shifted, grown or shrunk, and blurred."""
    shift = rng.integers(-3, 4, 2).tolist()
    soft = F.avg_pool2d(torch.roll(target, shift, (1, 2))[:, None], 7, 2, 3)
    return (soft - float(rng.uniform(0.3, 0.7))) * 16


def make_batch(scenes: tuple[np.ndarray, np.ndarray], image_count: int, rng: np.random.Generator) -> Batch:
    """Draw images from the pool of scenes, then objects and prompts of one kind."""
    count, with_box, with_mask = list(KINDS)[rng.choice(len(KINDS), p=list(KINDS.values()))]
    images = torch.zeros(image_count, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = torch.zeros(image_count * PROMPTS, IMAGE_SIZE, IMAGE_SIZE)
    objects = torch.zeros(image_count, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    points = []
    boxes = []
    for index in range(image_count):
        present = np.array([])
        while not len(present):
            pick = rng.integers(len(scenes[0]))
            image, marks = _augment(scenes[0][pick], scenes[1][pick], rng)
            present = np.setdiff1d(marks, [0])
        height, width = marks.shape
        normal = ((image - MEAN) / STD).astype(np.float32)
        images[index, :, :height, :width] = torch.from_numpy(normal).permute(2, 0, 1)
        objects[index, :height, :width] = torch.from_numpy(np.ascontiguousarray(marks))
        for slot, mark in enumerate(np.resize(rng.permutation(present), PROMPTS)):
            mask = marks == mark
            targets[index * PROMPTS + slot, :height, :width] = torch.from_numpy(mask)
            points.append(_points(mask, max(count, 1), rng))
            boxes.append(_box(mask, rng))
    positions, signs = (torch.from_numpy(np.stack(part)).float() for part in zip(*points, strict=True))
    return Batch(
        images=images,
        labels=objects,
        targets=targets,
        points=positions if count else None,
        point_labels=signs if count else None,
        boxes=torch.from_numpy(np.stack(boxes)).float() if with_box else None,
        masks=_rough_mask(targets, rng) if with_mask else None,
    )


def draw_pool(options: argparse.Namespace, part: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images (pool, S, S, 3) and labels (pool, S, S) of a training; the workers draw them in parts."""
    counts = [min(part, options.pool - start) for start in range(0, options.pool, part)]
    seeds = [derive_seed(options.seed, "train", index) for index in range(len(counts))]
    with ProcessPoolExecutor(options.workers) if options.workers else contextlib.nullcontext() as processes:
        parts = list((processes.map if processes else map)(make_scenes, seeds, counts))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
