"""Records of what became of pseudo-labels, for statistics and overlays."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from s4m.pseudo_labels.matching import Outcome


@dataclass(frozen=True)
class ImageRecord:
    """The pseudo-labels of one image before any mixing, in the frame of its weak view.

    Attributes:
        file_name: file name of the image, "" where its dict has none.
        image: (3, H, W) uint8, the weak view itself, in cfg.INPUT.FORMAT.
        candidates: number of predictions that the teacher made.
        teacher_masks: (N, H, W) bool, the masks before SAM.
        masks: (N, H, W) bool, the masks after SAM.
        scores: (N,) class scores of the teacher.
        classes: (N,) int64.
        quality: (N,) IoU that SAM predicts for its masks.
        accepted: (N,) bool, whether SAM's mask replaced the teacher's.
        prompted: whether SAM was prompted about this image.
        confidence: (N,) calibrated confidence; None without calibration.
        ignored: (N,) bool, whether the confidence is too low to learn from; None without calibration.
        doubtful: number of further ignored regions, whose score is too low for a pseudo-label.
        match_outcome: (N,) int64 values of `s4m.pseudo_labels.matching.Outcome`; None without matching.
        over_segmented: (N,) bool, whether SAM's most trusted answer was only a part; None without matching.
        agreement: (N,) IoU of the teacher's mask with SAM's, taken or not; None where SAM was not prompted.
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
    prompted: bool
    confidence: torch.Tensor | None = None
    ignored: torch.Tensor | None = None
    doubtful: int = 0
    match_outcome: torch.Tensor | None = None
    over_segmented: torch.Tensor | None = None
    agreement: torch.Tensor | None = None

    @property
    def selected(self) -> int:
        """Number of predictions that became pseudo-labels."""
        return len(self.masks)

    @property
    def refined(self) -> int:
        """Number of pseudo-labels whose mask is SAM's."""
        return int(self.accepted.sum())

    @property
    def rejected(self) -> int:
        """Number of pseudo-labels for which SAM's answer was not taken."""
        return self.selected - self.refined if self.prompted else 0


def match_counts(images: Iterable[ImageRecord]) -> torch.Tensor | None:
    """Count the pseudo-labels with each outcome of the matching.

    Returns:
        (len(Outcome) + 1,) int64 on the CPU, the last for over-segmented ones; None where nothing was matched.
    """
    images = [image for image in images if image.match_outcome is not None and image.selected]
    if not images:
        return None
    outcome = torch.bincount(torch.cat([image.match_outcome for image in images]), minlength=len(Outcome))
    over_segmented = torch.cat([image.over_segmented for image in images]).sum()
    return torch.cat([outcome, over_segmented[None]]).cpu()


def match_rates(counts: torch.Tensor, prefix: str) -> dict[str, float]:
    """Return the share of each outcome and of over-segmented pseudo-labels, as `{prefix}matched` and so on.

    Args:
        counts: a sum of results of `match_counts`.
        prefix: beginning of each name.
    """
    names = [*(outcome.name.lower() for outcome in Outcome), "over_segmented"]
    shares = counts.double() / counts[: len(Outcome)].sum()
    return {prefix + name: share for name, share in zip(names, shares.tolist(), strict=True)}


@dataclass
class PseudoLabelRecord:
    """The record of one batch; it refers to the step's own tensors, so it costs no memory during that step.

    Attributes:
        images: one record for each image.
        targets: number of instances that the student learns from after mixing.
        mixed: (3, H, W) uint8 of each image after mixing, before strong augmentation.
    """

    images: list[ImageRecord] = field(default_factory=list)
    targets: int = 0
    mixed: list[torch.Tensor] = field(default_factory=list)

    def scalars(self, prefix: str = "pseudo_labels/") -> dict[str, float]:
        """Return means over the images of the batch, for TensorBoard."""
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
        """Number of the batch's predictions that became pseudo-labels."""
        return sum(image.selected for image in self.images)
