"""Training of the tiny SAM on synthetic scenes: prompts, losses, and a loop that is bounded, saved and resumed."""

import argparse
import logging
import math
import time

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from d2kit.files import atomic_write
from d2kit.rng import seed_everything
from s4m.sam.tiny import DIM, build_tiny_sam
from tiny_sam.batches import PROMPTS, Batch, Batches, draw_pool

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 0.02
EMA_DECAY = 0.998
SAVE_SECONDS = 120.0
# Rows down and columns right, in pixels of the low-resolution masks, between pixels that belong together or not.
OFFSETS = ((0, 1), (1, 0), (0, 3), (3, 0), (3, 3), (3, -3), (0, 8), (8, 0))


def mask_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
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
    coarse = mask_loss(logits[:, 1:], small[:, 1:])
    rows = torch.arange(len(logits))
    chosen = torch.stack([logits[:, 0], logits[rows, 1 + coarse.detach().argmin(1)]], dim=1)
    full = F.interpolate(chosen, target.shape[-2:], mode="bilinear", align_corners=False)
    fine = mask_loss(full, target[:, None].expand_as(full)).sum(1)
    return fine.mean() + 0.5 * coarse.mean() + 2 * F.mse_loss(quality, iou)


class AffinityHead(nn.Sequential):
    """Logits that two pixels belong together, read off the embedding: (B, dim, h, w) -> (B, len(OFFSETS), 4h, 4w).

    It teaches the encoder about every object of an image at once, where prompts ask for a few; it is thrown away after.
    """

    def __init__(self, dim: int = DIM):
        super().__init__(nn.Conv2d(dim, 16 * len(OFFSETS), 1), nn.PixelShuffle(4))


def affinity_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of `AffinityHead`, pairs across an edge weighing more.

    Args:
        logits: (B, len(OFFSETS), s, s), the pair of each pixel and the one OFFSETS away.
        labels: (B, S, S) object of each pixel, S a multiple of s; equal labels belong together, background too.
    """
    step = labels.shape[-1] // logits.shape[-1]
    labels, side = labels[:, step // 2 :: step, step // 2 :: step], logits.shape[-1]
    losses = []
    for logit, (down, right) in zip(logits.unbind(1), OFFSETS, strict=True):
        left, start = max(-right, 0), slice(0, side - down)
        here = (slice(None), start, slice(left, side - max(right, 0)))
        there = (slice(None), slice(down, side), slice(left + right, side - max(right, 0) + right))
        same = (labels[here] == labels[there]).float()
        losses.append(F.binary_cross_entropy_with_logits(logit[here], same, 1 + 3 * (1 - same)))
    return torch.stack(losses).mean()


def forward(model: Sam, batch: Batch, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All four masks (N, 4, s, s) and qualities (N, 4) for a batch's prompts and embedding (B, C, h, w)."""
    embedding = embedding.repeat_interleave(PROMPTS, dim=0)
    points = None if batch.points is None else (batch.points, batch.point_labels)
    sparse, dense = model.prompt_encoder(points=points, boxes=batch.boxes, masks=batch.masks)
    return model.mask_decoder.predict_masks(
        image_embeddings=embedding.new_zeros(1, 1, 1, 1),  # the decoder repeats one image: each prompt brings its own
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + embedding,
    )


class TinySamTraining:
    """Model, averaged weights, optimizer and place in the schedule; goes on from a checkpoint in the output folder.

    `options` are the arguments of tools/train_tiny_sam.py.
    """

    def __init__(self, options: argparse.Namespace):
        seed_everything(options.seed)
        self.options = options
        self.model = build_tiny_sam().to(options.device, memory_format=torch.channels_last).train()
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.affinity = AffinityHead().to(options.device)
        parameters = [*self.model.parameters(), *self.affinity.parameters()]
        decayed, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate)
        self.iteration = 0
        self.seconds = 0.0
        self.checkpoint = options.output / "training.pth"
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=options.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.affinity.load_state_dict(state["affinity"])
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
        state = {"model": self.model.state_dict(), "affinity": self.affinity.state_dict(), "average": self.average}
        state["optimizer"] = self.optimizer.state_dict()
        with atomic_write(self.checkpoint) as file:
            torch.save(state | {"iteration": self.iteration, "seconds": self.seconds}, file)
        with atomic_write(self.options.output / "tiny_sam.pth") as file:
            torch.save({name: value.half() for name, value in self.average.items()}, file)

    def step(self, batch: Batch) -> float:
        """One optimizer step on the batch of this iteration. Returns the loss."""
        device = self.options.device
        batch = Batch(*(part if part is None else part.to(device, non_blocking=True) for part in batch))
        warmup = min(1.0, (self.iteration + 1) / 200)
        rate = self.options.rate * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        embedding = self.model.image_encoder(batch.images.contiguous(memory_format=torch.channels_last))
        loss = promptable_loss(*forward(self.model, batch, embedding), batch.targets)
        loss = loss + affinity_loss(self.affinity(embedding), batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.iteration += 1
        decay = min(EMA_DECAY, (1 + self.iteration) / (10 + self.iteration))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return loss.item()

    def run(self) -> None:
        """Train until the schedule ends."""
        if self.progress >= 1:
            return
        logger.info("drawing %d scenes", self.options.pool)
        scenes = draw_pool(self.options)
        saved = self.seconds
        losses = []
        batches = Batches(scenes, self.options).loader(self.iteration)
        while self.progress < 1:
            start = time.monotonic()
            losses.append(self.step(next(batches)))
            self.seconds += time.monotonic() - start
            if self.iteration % 50 == 0:
                logger.info("iteration %d, %.0f s, loss %.4f", self.iteration, self.seconds, np.mean(losses))
                losses.clear()
            if self.seconds - saved > SAVE_SECONDS:
                saved = self.seconds
                self.save()
        self.save()
