"""What became of a batch of pseudo-labels, for statistics and overlays."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from s4m.pseudo_labels.matching import Outcome


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
        confidence: (N,) calibrated, None without calibration.
        ignored: (N,) bool, whose confidence is too low to learn from; None without calibration.
        doubtful: regions besides that are ignored, because their score is too low for a pseudo-label.
        match_outcome: (N,) int64 of `s4m.pseudo_labels.matching.Outcome`; None without matching.
        over_segmented: (N,) bool, whether SAM's most trusted answer was only a part; None without matching.
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
    confidence: torch.Tensor | None = None
    ignored: torch.Tensor | None = None
    doubtful: int = 0
    match_outcome: torch.Tensor | None = None
    over_segmented: torch.Tensor | None = None

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


def match_counts(images: Iterable[ImageRecord]) -> torch.Tensor | None:
    """Numbers of pseudo-labels that the matching looked at.

    Returns:
        (len(Outcome) + 1,) int64 on the CPU: with each outcome, then over-segmented; None where there are none.
    """
    images = [image for image in images if image.match_outcome is not None and image.selected]
    if not images:
        return None
    outcome = torch.bincount(torch.cat([image.match_outcome for image in images]), minlength=len(Outcome))
    over_segmented = torch.cat([image.over_segmented for image in images]).sum()
    return torch.cat([outcome, over_segmented[None]]).cpu()


def match_rates(counts: torch.Tensor, prefix: str) -> dict[str, float]:
    """Shares of the pseudo-labels with each outcome, and of those that SAM over-segmented, as `{prefix}matched` etc.

    Args:
        counts: sum of `match_counts`, not of nothing.
    """
    names = [*(kind.name.lower() for kind in Outcome), "over_segmented"]
    shares = counts.double() / counts[: len(Outcome)].sum()
    return {prefix + name: share for name, share in zip(names, shares.tolist(), strict=True)}


@dataclass
class PseudoLabelRecord:
    """What became of one batch; it refers to the step's own tensors, so it costs nothing to hold for that step.

    Attributes:
        images: one record an image.
        targets: instances the student learns from in all, after mixing.
    """

    images: list[ImageRecord] = field(default_factory=list)
    targets: int = 0

    def scalars(self, prefix: str = "pseudo_labels/") -> dict[str, float]:
        """Means over the images of the batch, for TensorBoard."""
        count = max(len(self.images), 1)
        names = ("candidates", "selected", "refined", "rejected")
        means = {prefix + name: sum(getattr(image, name) for image in self.images) / count for name in names}
        means[prefix + "targets"] = self.targets / count
        confidence = [image.confidence for image in self.images if image.confidence is not None]
        if confidence:
            ignored = sum(int(image.ignored.sum()) + image.doubtful for image in self.images)
            means[prefix + "ignored"] = ignored / count
            means[prefix + "confidence"] = float(torch.cat(confidence).sum()) / max(self.selected, 1)
        return means

    @property
    def selected(self) -> int:
        """Predictions of the batch that became pseudo-labels."""
        return sum(image.selected for image in self.images)
