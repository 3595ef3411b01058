"""How far confidence is what it says: reliability diagrams and the expected calibration error (ECE)."""

from collections.abc import Mapping

import numpy as np
import torch
from detectron2.utils import comm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Reliability:
    """Compares confidences of pseudo-labels with their true IoU, in bins of equal width.

    ECE = sum over bins of (share of the labels) * |mean confidence - mean IoU|: here a confidence is calibrated when it
    is the IoU to be expected (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, IoU in place of
    accuracy).

    Args:
        bins: of [0, 1].
    """

    def __init__(self, bins: int = 10):
        self.bins = bins
        self._sums: dict[str, torch.Tensor] = {}

    def update(self, confidences: Mapping[str, torch.Tensor], iou: torch.Tensor) -> None:
        """Add pseudo-labels.

        Args:
            confidences: (N,) in [0, 1] for each name.
            iou: (N,) with the truth of their class.
        """
        iou = iou.detach().double().cpu()
        for name, confidence in confidences.items():
            confidence = confidence.detach().double().cpu()
            rows = torch.stack([torch.ones_like(iou), confidence, iou], dim=1)
            sums = self._sums.setdefault(name, torch.zeros(self.bins, 3, dtype=torch.float64))
            sums.index_add_(0, (confidence * self.bins).long().clamp(0, self.bins - 1), rows)

    def gather(self) -> dict[str, torch.Tensor]:
        """Of each name (bins, 3): count, sum of confidences, sum of IoUs of all processes, which must all call this."""
        gathered = comm.all_gather(self._sums)
        empty = torch.zeros(self.bins, 3, dtype=torch.float64)
        names = dict.fromkeys(name for sums in gathered for name in sums)
        return {name: torch.stack([sums.get(name, empty) for sums in gathered]).sum(dim=0) for name in names}


def expected_calibration_error(sums: torch.Tensor) -> float:
    """ECE of (bins, 3) count, sum of confidences, sum of IoUs; 0 of nothing."""
    return float((sums[:, 1] - sums[:, 2]).abs().sum() / sums[:, 0].sum().clamp(min=1))


def draw_reliability(sums: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Mean IoU over mean confidence of each bin, one panel a name, with the share of labels in each bin below.

    Args:
        sums: of `Reliability.gather`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    figure = Figure(figsize=(4 * max(len(sums), 1), 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, (name, rows) in enumerate(sums.items()):
        axes = figure.add_subplot(1, len(sums), number + 1)
        count, confidence, iou = rows.T.numpy()
        full, width = count > 0, 1 / len(rows)
        centers = (np.arange(len(rows)) + 0.5) * width
        axes.bar(centers, count / max(count.sum(), 1), width, color="lightgrey", label="share of labels")
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        axes.plot(confidence[full] / count[full], iou[full] / count[full], marker="o", label="mean IoU")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=name, title=f"ECE {expected_calibration_error(rows):.3f}")
        axes.legend(loc="upper left")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
