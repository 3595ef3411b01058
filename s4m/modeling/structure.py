"""Structural distillation as a term of the teacher-student's loss."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances

from s4m.losses.structural_distillation import draw_query_points, sam_similarity, structural_distillation_loss
from s4m.losses.weighted import global_count
from s4m.pseudo_labels.masks import truth_masks
from s4m.sam import PromptableSegmenter


def foreground_of(instances: Instances) -> torch.Tensor | None:
    """(H, W) bool: pixels of any labelled instance; None when there is none."""
    labelled = instances[instances.gt_classes >= 0]
    if len(labelled) == 0:
        return None
    return truth_masks(labelled).any(dim=0)


class StructuralDistillation:
    """loss_sd of the labelled images (S4M, stage 1): see `s4m.losses.structural_distillation`."""

    @configurable
    def __init__(self, *, points: int, weight: float, chunk: int, bgr: bool):
        """
        Args:
            points: queries an image, half of them on labelled foreground.
            weight: of the loss.
            chunk: prompts whose decoder tokens are held at once.
            bgr: channel order of the images.
        """
        self.points, self.weight, self.chunk, self.bgr = points, weight, chunk, bgr

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read cfg.S4M.SD and cfg.INPUT.FORMAT."""
        return {
            "points": cfg.S4M.SD.POINTS,
            "weight": cfg.S4M.SD.WEIGHT,
            "chunk": cfg.S4M.SD.CHUNK,
            "bgr": cfg.INPUT.FORMAT == "BGR",
        }

    def __call__(
        self, labeled: list[dict], features: torch.Tensor, padded_size: tuple[int, int], segmenter: PromptableSegmenter
    ) -> torch.Tensor:
        """
        Args:
            labeled: dictionaries with `image` (3, H, W), `instances`, and, where they were seeded, `seed` and
                `valid_size`.
            features: (B, C, h, w) pixel features of the padded batch.
            padded_size: height, width of the padded batch in pixels.
            segmenter: the frozen SAM.

        Returns:
            the weighted loss, a scalar.
        """
        images, sizes, points = [], [], []
        for entry in labeled:
            height, width = entry.get("valid_size", entry["image"].shape[1:])
            image = entry["image"][:, :height, :width]
            images.append(image.flip(0) if self.bgr else image)
            sizes.append((height, width))
            generator = torch.Generator().manual_seed(entry["seed"]) if "seed" in entry else None
            points.append(draw_query_points((height, width), foreground_of(entry["instances"]), self.points, generator))
        with torch.no_grad():
            embedding = segmenter.encode([image.to(segmenter.device) for image in images])
            structures = sam_similarity(segmenter, embedding, points, self.chunk)
        loss = structural_distillation_loss(features, structures, sizes, padded_size)
        count = sum(structure.similarity.numel() for structure in structures)
        return self.weight * loss * (count / global_count(count, loss.device))
