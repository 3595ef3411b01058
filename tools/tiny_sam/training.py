"""The tiny SAM trains on synthetic scenes in a loop that is bounded, saved and resumed."""

import argparse
import copy
import logging
import math
import time

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from d2kit.ema import update_ema
from d2kit.files import atomic_write
from d2kit.rng import seed_everything
from s4m.sam.tiny import DIM, build_tiny_sam
from tiny_sam.batches import PROMPTS, Batch, Batches, draw_pool

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 0.02
EMA_DECAY = 0.998
SAVE_SECONDS = 120.0
SAVED = ("model", "affinity", "average", "optimizer")  # These attributes have a state_dict in the checkpoint.
# The affinity is learned between pixels that are so many rows down and columns right, in low-resolution masks.
OFFSETS = ((0, 1), (1, 0), (0, 3), (3, 0), (3, 3), (3, -3), (0, 8), (8, 0))


def mask_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the Dice loss plus 4 times the cross-entropy (...) of masks: logits, targets in [0, 1] (..., h, w)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    return dice + 4 * entropy


def promptable_loss(logits: torch.Tensor, quality: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of the decoder's answers: the best of the three masks, the single mask and the IoU regression.

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
    """The head turns embeddings (B, dim, h, w) into logits (B, len(OFFSETS), 4h, 4w) that two pixels belong together.

    It teaches the encoder about every object of an image at once; prompts are for a few. It is not kept.
    """

    def __init__(self, dim: int = DIM):
        super().__init__(nn.Conv2d(dim, 16 * len(OFFSETS), 1), nn.PixelShuffle(4))


def affinity_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of `AffinityHead`, in which pairs across an edge weigh four times as much.

    Args:
        logits: (B, len(OFFSETS), s, s), the pair of each pixel and the one OFFSETS away.
        labels: (B, S, S) object of each pixel, S a multiple of s; equal labels belong together, background too.
    """
    step = labels.shape[-1] // logits.shape[-1]
    labels, side = labels[:, step // 2 :: step, step // 2 :: step], logits.shape[-1]
    losses = []
    for logit, (down, right) in zip(logits.unbind(1), OFFSETS, strict=True):
        start, end = max(-right, 0), side - max(right, 0)
        here = (slice(None), slice(side - down), slice(start, end))
        same = (labels[here] == labels[:, down:, start + right : end + right]).float()
        losses.append(F.binary_cross_entropy_with_logits(logit[here], same, 1 + 3 * (1 - same)))
    return torch.stack(losses).mean()


def forward(model: Sam, batch: Batch, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all four masks (N, 4, s, s) and qualities (N, 4) for a batch's prompts and embedding (B, C, h, w)."""
    embedding = embedding.repeat_interleave(PROMPTS, dim=0)
    points = None if batch.points is None else (batch.points, batch.point_labels)
    sparse, dense = model.prompt_encoder(points=points, boxes=batch.boxes, masks=batch.masks)
    return model.mask_decoder.predict_masks(
        image_embeddings=embedding.new_zeros(1, 1, 1, 1),  # The decoder repeats one image, but each prompt has its own.
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + embedding,
    )


class TinySamTraining:
    """A training has a model, its averaged weights, an optimizer and a place in the schedule.

    It goes on from a checkpoint in the output folder. `options` are the arguments of tools/train_tiny_sam.py.
    """

    def __init__(self, options: argparse.Namespace):
        seed_everything(options.seed)
        self.options = options
        self.model = build_tiny_sam().to(options.device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model)
        self.affinity = AffinityHead().to(options.device)
        parameters = [*self.model.parameters(), *self.affinity.parameters()]
        decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
        plain = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([decayed, plain], lr=options.rate)
        self.iteration = 0
        self.seconds = 0.0
        self.checkpoint = options.output / "training.pth"
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=options.device, weights_only=True)
            for name in SAVED:
                getattr(self, name).load_state_dict(state[name])
            self.iteration = state["iteration"]
            self.seconds = state["seconds"]
            logger.info("The training goes on at iteration %d (%.0f s).", self.iteration, self.seconds)

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1."""
        if self.options.iterations:
            return self.iteration / self.options.iterations
        return self.seconds / (60 * self.options.minutes)

    def save(self) -> None:
        """Write the state, and the averaged weights as fp16 in `tiny_sam.pth`, both atomically."""
        state = {name: getattr(self, name).state_dict() for name in SAVED}
        with atomic_write(self.checkpoint) as file:
            torch.save(state | {"iteration": self.iteration, "seconds": self.seconds}, file)
        with atomic_write(self.options.output / "tiny_sam.pth") as file:
            torch.save({name: value.half() for name, value in state["average"].items()}, file)

    def step(self, batch: Batch) -> float:
        """Make one optimizer step on the batch of this iteration, and return the loss."""
        device = self.options.device
        batch = Batch(*(part if part is None else part.to(device) for part in batch))
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
        update_ema(self.average, self.model, min(EMA_DECAY, (1 + self.iteration) / (10 + self.iteration)))
        return loss.item()

    def run(self) -> None:
        """Train until the schedule ends."""
        if self.progress >= 1:
            return
        logger.info("%d scenes are drawn.", self.options.pool)
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
