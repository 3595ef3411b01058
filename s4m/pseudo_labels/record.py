"""What became of a batch of pseudo-labels, for statistics and overlays."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class ImageRecord:
    """The pseudo-labels of one image before any mixing, in the frame of its weak view.

    Attributes:
        file_name: of the image, "" where its dict has none.
        image: (3, H, W) uint8, the weak view itself, in cfg.INPUT.FORMAT.
        candidates: predictions that the teacher made.
        teacher_masks, masks: (N, H, W) bool before and after SAM.
        scores: (N,) of the teacher; classes: (N,) int64.
        quality: (N,) SAM's predicted IoU; accepted: (N,) bool, whether SAM's mask replaced the teacher's.
        asked: whether SAM was asked about this image.
    """

    file_name: str
    image: torch.Tensor
    candidates: int
    teacher_masks: torch.Tensor
    masks: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    quality: torch.Tensor
    accepted: torch.Tensor
    asked: bool

    @property
    def selected(self) -> int:
        """Predictions that became pseudo-labels."""
        return len(self.masks)

    @property
    def refined(self) -> int:
        """Pseudo-labels whose mask is SAM's."""
        return int(self.accepted.sum())

    @property
    def rejected(self) -> int:
        """Pseudo-labels for which SAM was asked and its answer not taken."""
        return self.selected - self.refined if self.asked else 0


@dataclass
class PseudoLabelRecord:
    """What became of one batch; it refers to the step's own tensors, so it costs nothing to hold for that step.

    Attributes:
        images: one record an image.
        targets: instances the student is given in all, after mixing.
    """

    images: list[ImageRecord] = field(default_factory=list)
    targets: int = 0

    def scalars(self, prefix: str = "pseudo_labels/") -> dict[str, float]:
        """Means over the images of the batch, for TensorBoard."""
        count = max(len(self.images), 1)
        names = ("candidates", "selected", "refined", "rejected")
        means = {prefix + name: sum(getattr(image, name) for image in self.images) / count for name in names}
        means[prefix + "targets"] = self.targets / count
        return means
