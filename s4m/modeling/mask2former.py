"""Mask2Former as a student of `TeacherStudent`."""

from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from torch import nn

from d2kit.require import require_extra
from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.mask2former_inference import (
    best_classes,
    detections,
    predicted_objects,
    resize_logits,
    soft_predictions,
)

if TYPE_CHECKING:
    from s4m.modeling.mask2former_head import Mask2FormerHead, Mask2FormerOutput
    from s4m.modeling.mask2former_loss import PseudoLabelMask2FormerLoss

_DIVISIBILITY = 32  # The sides of the padded input are multiples of the coarsest map's stride.


@META_ARCH_REGISTRY.register()
class S4MMask2Former(nn.Module):
    """transformers' Mask2Former behind a Detectron2 backbone, as a `Student`.

    By itself it is an ordinary Detectron2 meta-architecture that trains from `instances` with `gt_classes` (-1 marks an
    ignored region) and `gt_masks`, optionally `gt_weights` and `gt_soft_masks`. Structural distillation compares the
    pixel decoder's mask features.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: "Mask2FormerHead",
        criterion: "PseudoLabelMask2FormerLoss",
        in_features: list[str],
        pixel_mean: list[float],
        pixel_std: list[float],
        max_detections: int,
    ):
        """
        Args:
            backbone: a network that gives maps of the strides 4, 8, 16 and 32.
            head: pixel decoder and transformer decoder.
            criterion: the loss.
            in_features: names of the backbone's maps, finest first.
            pixel_mean, pixel_std: mean and deviation of each channel, in the order of the input images.
            max_detections: number of pairs of query and class that an image keeps in eval mode.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.criterion = criterion
        self.in_features = list(in_features)
        self.max_detections = max_detections
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read MODEL.MASK2FORMER, MODEL.BACKBONE, MODEL.ROI_HEADS.NUM_CLASSES and TEST.DETECTIONS_PER_IMAGE.

        Raises:
            ImportError: transformers is not installed.
        """
        require_extra("transformers", "transformers")
        from s4m.modeling.mask2former_head import build_head, load_pretrained
        from s4m.modeling.mask2former_loss import PseudoLabelMask2FormerLoss

        if cfg.MODEL.MASK2FORMER.PRETRAINED:
            backbone, head = load_pretrained(cfg)
            in_features = list(backbone.output_shape())
        else:
            backbone = build_backbone(cfg)
            head = build_head(cfg, backbone.output_shape())
            in_features = cfg.MODEL.MASK2FORMER.IN_FEATURES
        return {
            "backbone": backbone,
            "head": head,
            "criterion": PseudoLabelMask2FormerLoss(head.config, BoundaryConsistency.read(cfg)),
            "in_features": in_features,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize images and pad them below and on the right to one size whose sides are multiples of 32."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, max(_DIVISIBILITY, self.backbone.size_divisibility))

    def _predict(self, batched_inputs: list[dict]) -> tuple["Mask2FormerOutput", ImageList]:
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        return self.head([features[name] for name in self.in_features]), images

    def losses_and_features(
        self, batched_inputs: list[dict]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, tuple[int, int]]:
        """Run one training pass; see `Student`.

        The losses are `loss_class`, `loss_mask` and `loss_dice`, summed over the decoder's layers, and `loss_boundary`.
        """
        from s4m.modeling.mask2former_loss import to_mask_targets

        output, images = self._predict(batched_inputs)
        padded_size = tuple(images.tensor.shape[-2:])
        targets = [to_mask_targets(x["instances"].to(self.device), padded_size) for x in batched_inputs]
        losses = self.criterion(output.class_logits, output.mask_logits, targets)
        return losses, output.pixel_features, padded_size

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Return losses in training and `{"instances": Instances}` for each image in eval mode.

        The instances are in the frame of the original image (`height`, `width`; by default the input's own size), with
        `pred_masks` (N, height, width) bool, `pred_boxes` around them, `scores` and `pred_classes`.
        """
        if self.training:
            return self.losses_and_features(batched_inputs)[0]
        output, images = self._predict(batched_inputs)
        results = []
        for i, entry in enumerate(batched_inputs):
            queries, classes, scores = best_classes(output.class_logits[-1][i], self.max_detections)
            size = images.image_sizes[i]
            output_size = (entry.get("height", size[0]), entry.get("width", size[1]))
            # The mask of a query with several classes is resized once.
            unique, position = queries.unique(return_inverse=True)
            logits = resize_logits(output.mask_logits[-1][i][unique], images.tensor.shape[-2:], size, output_size)
            results.append({"instances": detections(logits[position], classes, scores)})
        return results

    @torch.no_grad()
    def predict(self, batched_inputs: list[dict], min_score: float = 0.0) -> list[Instances]:
        """Predict for pseudo-labels, at most once for each query, scored by class probability; see `Student`."""
        output, images = self._predict(batched_inputs)
        predictions = []
        for i, size in enumerate(images.image_sizes):
            queries, classes, scores = predicted_objects(output.class_logits[-1][i])
            keep = scores > min_score
            logits = output.mask_logits[-1][i][queries[keep]]
            logits = resize_logits(logits, images.tensor.shape[-2:], size, size)
            predictions.append(soft_predictions(logits, classes[keep], scores[keep]))
        return predictions
