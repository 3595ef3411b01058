"""Structural distillation as a term of the teacher-student's loss."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances

from s4m.losses.structural_distillation import draw_query_points, sam_similarity, structural_distillation_loss
from s4m.losses.weighted import global_count
from s4m.pseudo_labels.masks import truth_masks
from s4m.sam import PromptableSegmenter


def _foreground(instances: Instances) -> torch.Tensor | None:
    labeled = instances[instances.gt_classes >= 0]
    return truth_masks(labeled).any(dim=0) if len(labeled) else None


class StructuralDistillation:
    """The loss loss_sd of the labeled images (S4M, stage 1); see `s4m.losses.structural_distillation`.

    Args:
        points, weight, chunk: see the keys of S4M.SD.
        bgr: whether the channels of the images are blue, green, red.
    """

    @configurable
    def __init__(self, *, points: int, weight: float, chunk: int, bgr: bool):
        self.points = points
        self.weight = weight
        self.chunk = chunk
        self.bgr = bgr

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read cfg.S4M.SD and cfg.INPUT.FORMAT."""
        sd = cfg.S4M.SD
        return {"points": sd.POINTS, "weight": sd.WEIGHT, "chunk": sd.CHUNK, "bgr": cfg.INPUT.FORMAT == "BGR"}

    def __call__(
        self, labeled: list[dict], features: torch.Tensor, padded_size: tuple[int, int], segmenter: PromptableSegmenter
    ) -> torch.Tensor:
        """Return the weighted loss, a scalar.

        Args:
            labeled: dictionaries with `image` (3, H, W), `instances` and optionally `seed` and `valid_size`.
            features: (B, C, h, w) pixel features of the padded batch.
            padded_size: height and width of the padded batch in pixels.
            segmenter: the frozen SAM.
        """
        images = []
        sizes = []
        points = []
        for entry in labeled:
            height, width = entry.get("valid_size", entry["image"].shape[1:])
            image = entry["image"][:, :height, :width]
            images.append(image.flip(0) if self.bgr else image)
            sizes.append((height, width))
            generator = torch.Generator().manual_seed(entry["seed"]) if "seed" in entry else None
            points.append(draw_query_points((height, width), _foreground(entry["instances"]), self.points, generator))
        with torch.no_grad():
            embedding = segmenter.encode([image.to(segmenter.device) for image in images])
            structures = sam_similarity(segmenter, embedding, points, self.chunk)
        loss = structural_distillation_loss(features, structures, sizes, padded_size)
        count = sum(structure.similarity.numel() for structure in structures)
        return self.weight * loss * (count / global_count(count, loss.device))
