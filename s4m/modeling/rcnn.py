"""Mask R-CNN as a student of `TeacherStudent`."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances

from s4m.modeling.ignored import PARTS, require_pseudo_label_parts


def paste_probabilities(instances: Instances) -> torch.Tensor:
    """Paste `pred_masks` (N, 1, S, S) from the frames of `pred_boxes` into the image: (N, H, W) float probabilities.

    The probabilities are 0 outside the box.
    """
    height, width = instances.image_size
    if len(instances) == 0:
        return instances.pred_masks.new_zeros((0, height, width))
    masks, _ = _do_paste_mask(instances.pred_masks, instances.pred_boxes.tensor, height, width, skip_empty=False)
    return masks


@META_ARCH_REGISTRY.register()
class S4MRCNN(GeneralizedRCNN):
    """Detectron2's Mask R-CNN as a `Student`; weights have the names of GeneralizedRCNN and load there."""

    @configurable
    def __init__(self, *, pixel_feature: str, **kwargs):
        """
        Args:
            pixel_feature: name of the backbone output that structural distillation compares.
            kwargs: arguments of GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.pixel_feature = pixel_feature
        parts = (self.proposal_generator, self.roi_heads)
        self._knows_ignored = all(getattr(part, "learns_from_pseudo_labels", False) for part in parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read GeneralizedRCNN's arguments and `S4M.PIXEL_FEATURE`.

        Raises:
            ValueError: the backbone lacks a map that the keys name, or parts cannot learn from pseudo-labels.
        """
        require_pseudo_label_parts(cfg)
        try:
            arguments = super().from_config(cfg)
        except KeyError as error:
            if error.args[0] not in {*cfg.MODEL.RPN.IN_FEATURES, *cfg.MODEL.ROI_HEADS.IN_FEATURES}:
                raise
            raise ValueError(
                f"MODEL.RPN.IN_FEATURES or MODEL.ROI_HEADS.IN_FEATURES names {error}, which {cfg.MODEL.BACKBONE.NAME} "
                "does not give. Mask R-CNN needs a feature pyramid: build_resnet_fpn_backbone and build_vit_backbone "
                "have one, build_timm_backbone is for S4MMask2Former alone."
            ) from error
        known = list(arguments["backbone"].output_shape())
        if cfg.S4M.PIXEL_FEATURE not in known:
            raise ValueError(f"S4M.PIXEL_FEATURE is '{cfg.S4M.PIXEL_FEATURE}', but the backbone gives {known}.")
        return {**arguments, "pixel_feature": cfg.S4M.PIXEL_FEATURE}

    def losses_and_features(
        self, batched_inputs: list[dict]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, tuple[int, int]]:
        """Run one training pass; see `Student`. An ignored region is a ValueError for parts that do not know it."""
        if not self._knows_ignored and any((x["instances"].gt_classes < 0).any() for x in batched_inputs):
            raise ValueError(
                f"Ignored regions, which INPUT.IGNORE_VOID makes of void, need {PARTS}; or set that key to False."
            )
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        _, head_losses = self.roi_heads(images, features, proposals, targets)
        return {**losses, **head_losses}, features[self.pixel_feature], tuple(images.tensor.shape[-2:])

    @torch.no_grad()
    def predict(self, batched_inputs: list[dict], min_score: float = 0.0) -> list[Instances]:
        """Predict for pseudo-labels; see `Student`."""
        predictions = []
        for raw in self.inference(batched_inputs, do_postprocess=False):
            kept = raw[raw.scores > min_score]
            kept.soft_masks = paste_probabilities(kept)
            kept.remove("pred_masks")
            predictions.append(kept)
        return predictions
