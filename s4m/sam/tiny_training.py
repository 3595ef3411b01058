"""Training of the tiny SAM on synthetic scenes: prompts, losses, and a loop that is bounded, saved and resumed."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from d2kit.files import atomic_write
from d2kit.rng import derive_seed, seed_everything
from s4m.sam.tiny import IMAGE_SIZE, build_tiny_sam
from s4m.sam.training_shapes import make_scenes

logger = logging.getLogger(__name__)

# kind -> (number of points, with a box, with a mask), share of the iterations
KINDS = {
    (1, False, False): 0.25,
    (2, False, False): 0.10,
    (3, False, False): 0.30,
    (5, False, False): 0.10,
    (0, True, False): 0.13,
    (1, True, False): 0.05,
    (3, False, True): 0.07,
}


@dataclass
class TrainingOptions:
    """What decides a training of the tiny SAM.

    Either `iterations` (repeatable) or, when it is 0, `minutes` of wall time ends the run and the rate's decay.
    """

    output: Path
    minutes: float = 35.0
    iterations: int = 0
    seed: int = 17
    images: int = 12
    prompts: int = 6
    pool: int = 8000
    rate: float = 1e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    save_seconds: float = 120.0


@dataclass
class Batch:
    """Images (B, 3, S, S) float, normalised and padded; `count` prompts an image in the order of the images.

    targets (B * count, S, S) float 0/1; points (B * count, P, 2) x, y in input pixels with labels (B * count, P), or
    None; boxes (B * count, 4) or None; masks (B * count, 1, S / 2, S / 2) logits or None.
    """

    images: torch.Tensor
    targets: torch.Tensor
    count: int
    points: tuple[torch.Tensor, torch.Tensor] | None
    boxes: torch.Tensor | None
    masks: torch.Tensor | None


def _augment(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Flip, turn and recolour a scene (S, S, 3), (S, S); sometimes cut it to a shape that leaves padding."""
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
    image, labels = np.clip(image, 0, 255)[: valid[0], : valid[1]], labels[: valid[0], : valid[1]]
    return image, labels


def _points(mask: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` points in a mask (h, w), some of them moved a little; some after the first are negatives beside it."""
    rows, cols = np.nonzero(mask)
    chosen = rng.integers(len(rows), size=count)
    points = np.stack([cols[chosen], rows[chosen]], axis=1).astype(np.float32)
    labels = np.ones(count, np.float32)
    if rng.random() < 0.3:
        points += rng.normal(0, 1.2, points.shape)
    for index in range(1, count):
        if rng.random() < 0.08:
            near = points[0] + rng.normal(0, 12, 2)
            near = np.clip(near, 0, np.array(mask.shape)[::-1] - 1)
            if not mask[int(near[1]), int(near[0])]:
                points[index], labels[index] = near, 0
    return np.clip(points, 0, np.array(mask.shape)[::-1] - 1), labels


def _box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask's box xyxy, its sides moved by up to a tenth of its extent."""
    rows, cols = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], np.float32)
    extent = np.tile(box[2:] - box[:2], 2)
    return box + rng.uniform(-0.1, 0.1, 4) * extent


def _rough_mask(target: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Logits (N, 1, S / 2, S / 2) of wrong versions of targets (N, S, S): shifted, grown or shrunk, blurred."""
    shift = rng.integers(-3, 4, 2).tolist()
    soft = F.avg_pool2d(torch.roll(target, shift, (1, 2))[:, None], 7, 2, 3)
    return (soft - float(rng.uniform(0.3, 0.7))) * 16


def make_batch(scenes: tuple[np.ndarray, np.ndarray], options: TrainingOptions, rng: np.random.Generator) -> Batch:
    """Draw images, then objects and prompts of one kind, from the pool of scenes."""
    kinds = list(KINDS)
    count, with_box, with_mask = kinds[rng.choice(len(kinds), p=np.array(list(KINDS.values())))]
    images = torch.zeros(options.images, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = torch.zeros(options.images * options.prompts, IMAGE_SIZE, IMAGE_SIZE)
    points, labels, boxes = [], [], []
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    for index in range(options.images):
        present = np.array([])
        while not len(present):
            pick = rng.integers(len(scenes[0]))
            image, marks = _augment(scenes[0][pick], scenes[1][pick], rng)
            present = np.unique(marks)
            present = present[present > 0]
        height, width = marks.shape
        normal = ((image - mean) / std).astype(np.float32)
        images[index, :, :height, :width] = torch.from_numpy(normal).permute(2, 0, 1)
        order = np.resize(rng.permutation(present), options.prompts)
        for slot, mark in enumerate(order):
            mask = marks == mark
            targets[index * options.prompts + slot, :height, :width] = torch.from_numpy(mask.astype(np.float32))
            where, sign = _points(mask, max(count, 1), rng)
            points.append(where)
            labels.append(sign)
            boxes.append(_box(mask, rng))
    return Batch(
        images=images,
        targets=targets,
        count=options.prompts,
        points=(torch.from_numpy(np.stack(points)).float(), torch.from_numpy(np.stack(labels))) if count else None,
        boxes=torch.from_numpy(np.stack(boxes)).float() if with_box else None,
        masks=_rough_mask(targets, rng) if with_mask else None,
    )


def _mask_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice plus weighted cross-entropy of each mask: (..., h, w) logits and targets in [0, 1] -> (...)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    return dice + 4 * entropy


def promptable_loss(logits: torch.Tensor, quality: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss of the decoder's answers: the best of the three masks, the single mask, and the regression of IoU.

    Args:
        logits: (N, 4, s, s), the single mask first.
        quality: (N, 4) predicted IoU.
        target: (N, S, S) 0/1 with S a multiple of s.
    """
    small = F.avg_pool2d(target[:, None], target.shape[-1] // logits.shape[-1]).expand_as(logits)
    with torch.no_grad():
        answer, truth = logits > 0, small > 0.5
        iou = (answer & truth).sum((-2, -1)) / (answer | truth).sum((-2, -1)).clamp(min=1)
    coarse = _mask_loss(logits[:, 1:], small[:, 1:])
    rows = torch.arange(len(logits))
    chosen = torch.stack([logits[:, 0], logits[rows, 1 + coarse.detach().argmin(1)]], dim=1)
    full = F.interpolate(chosen, target.shape[-2:], mode="bilinear", align_corners=False)
    fine = _mask_loss(full, target[:, None].expand_as(full)).sum(1)
    return fine.mean() + 0.1 * coarse.mean() + F.mse_loss(quality, iou)


def forward(model: Sam, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """All four masks (N, 4, s, s) and qualities (N, 4) for the prompts of a batch, with gradients."""
    embedding = model.image_encoder(batch.images).repeat_interleave(batch.count, dim=0)
    sparse, dense = model.prompt_encoder(points=batch.points, boxes=batch.boxes, masks=batch.masks)
    return model.mask_decoder.predict_masks(
        image_embeddings=embedding.new_zeros(1, 1, 1, 1),  # the decoder repeats one image: each prompt brings its own
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + embedding,
    )


class TinySamTraining:
    """Model, averaged weights, optimizer and place in the schedule; goes on from a checkpoint in the output folder."""

    def __init__(self, options: TrainingOptions):
        seed_everything(options.seed)
        self.options = options
        self.model = build_tiny_sam().train()
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate)
        self.iteration, self.seconds = 0, 0.0
        self.checkpoint = options.output / "training.pth"
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.iteration, self.seconds = state["average"], state["iteration"], state["seconds"]
            logger.info("resumed at iteration %d (%.0f s)", self.iteration, self.seconds)

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        if self.options.iterations:
            return self.iteration / self.options.iterations
        return self.seconds / (60 * self.options.minutes)

    def save(self) -> None:
        """Write the state, and the averaged weights as fp16 in `tiny_sam.pth`; both atomically."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average}
        with atomic_write(self.checkpoint) as file:
            torch.save(state | {"iteration": self.iteration, "seconds": self.seconds}, file)
        with atomic_write(self.options.output / "tiny_sam.pth") as file:
            torch.save({name: value.half() for name, value in self.average.items()}, file)

    def step(self, scenes: tuple[np.ndarray, np.ndarray]) -> float:
        """One optimizer step; what is drawn follows the seed and the iteration. Returns the loss."""
        rng = np.random.default_rng(derive_seed(self.options.seed, "batch", self.iteration))
        warmup = min(1.0, (self.iteration + 1) / 200)
        rate = self.options.rate * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = make_batch(scenes, self.options, rng)
        loss = promptable_loss(*forward(self.model, batch), batch.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        decay = min(self.options.ema, (1 + self.iteration) / (10 + self.iteration))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return loss.item()

    def run(self) -> None:
        """Train until the schedule ends."""
        if self.progress >= 1:
            return
        logger.info("drawing %d scenes", self.options.pool)
        scenes = make_scenes(derive_seed(self.options.seed, "train"), self.options.pool)
        saved, losses = self.seconds, []
        while self.progress < 1:
            start = time.monotonic()
            losses.append(self.step(scenes))
            self.seconds += time.monotonic() - start
            if self.iteration % 50 == 0:
                mean, losses = float(np.mean(losses)), []
                logger.info("iteration %d, %.0f s, loss %.4f", self.iteration, self.seconds, mean)
            if self.seconds - saved > self.options.save_seconds:
                saved = self.seconds
                self.save()
        self.save()
