"""A student of your own, registered and trained by the command `s4m train` with the options of this script.

    python docs/examples/own_student.py --config-file quick/shapes_stage1.yaml S4M.STUDENT MaskFirstRCNN
"""

import sys

import torch
from detectron2.modeling import META_ARCH_REGISTRY

from s4m.cli import main
from s4m.modeling import S4MRCNN


@META_ARCH_REGISTRY.register()
class MaskFirstRCNN(S4MRCNN):
    """Mask R-CNN whose mask loss counts twice."""

    def losses_and_features(
        self, batched_inputs: list[dict]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, tuple[int, int]]:
        """As of `S4MRCNN`, with twice the mask loss."""
        losses, features, padded_size = super().losses_and_features(batched_inputs)
        return {**losses, "loss_mask": 2 * losses["loss_mask"]}, features, padded_size


if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
