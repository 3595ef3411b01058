"""The protocol between `TeacherStudent` and the network that it trains."""

from typing import Protocol, runtime_checkable

import torch
from detectron2.structures import Instances


@runtime_checkable
class Student(Protocol):
    """A network that learns from instances and, in a second copy, labels images as the teacher.

    It is an `nn.Module` that is registered in META_ARCH_REGISTRY and built from a configuration; `S4M.STUDENT` names
    it. In eval mode it is called as Detectron2's meta-architectures are. Images are Detectron2's dictionaries with
    `image` (3, H, W) in the order of cfg.INPUT.FORMAT.
    """

    def losses_and_features(
        self, batched_inputs: list[dict]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, tuple[int, int]]:
        """Run one training pass over images with labels or pseudo-labels.

        Args:
            batched_inputs: dictionaries with `image` and `instances` in its frame: gt_boxes, gt_classes (-1 marks an
                ignored region, in which nothing is learned) and gt_masks. Pseudo-labels also have `gt_weights` (N,),
                and with S4M.BOUNDARY `gt_teacher_masks`, `gt_sam_masks` (N, H, W) in [0, 1] and `gt_refined` (N,) bool.

        Returns:
            the losses; the pixel feature map (B, C, h, w) that structural distillation compares with SAM's; height and
            width in pixels of the padded batch that the map covers.

        Raises:
            ValueError: there is an ignored region, and the network cannot learn from it.
        """

    def predict(self, batched_inputs: list[dict], min_score: float = 0.0) -> list[Instances]:
        """Predict as the teacher, in the frame of the input `image` and without gradients.

        Returns:
            for each image `Instances` with `pred_boxes`, `scores` above `min_score`, `pred_classes` and `soft_masks`
            (N, H, W) in [0, 1].
        """
