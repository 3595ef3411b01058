"""Reliability diagrams and the expected calibration error (ECE) compare confidence with the IoU that is reached."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.utils import comm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_BINS = 10  # [0, 1] is divided into this many bins of equal width.
_COLUMNS = ("count", "confidence", "iou")  # of the sums of a bin


class Reliability:
    """Compares confidences of pseudo-labels with their true IoU, in bins of equal width.

    A confidence is calibrated if it is the IoU to be expected. ECE = sum over bins of (share of the labels) * |mean
    confidence - mean IoU| (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with IoU for accuracy).
    """

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}

    def update(self, confidences: Mapping[str, torch.Tensor], iou: torch.Tensor) -> None:
        """Add N pseudo-labels.

        Args:
            confidences: (N,) in [0, 1] for each name.
            iou: (N,) IoU with the ground truth of their class.
        """
        iou = iou.detach().double().cpu()
        for name, confidence in confidences.items():
            confidence = confidence.detach().double().cpu()
            rows = torch.stack([torch.ones_like(iou), confidence, iou], dim=1)
            sums = self._sums.setdefault(name, torch.zeros(_BINS, 3, dtype=torch.float64))
            sums.index_add_(0, (confidence * _BINS).long().clamp(0, _BINS - 1), rows)

    def gather(self) -> dict[str, torch.Tensor]:
        """Sum over all processes, which must all call this.

        Returns:
            (bins, 3) for each name: count, sum of confidences, sum of IoUs.
        """
        total = {}
        for sums in comm.all_gather(self._sums):
            for name, rows in sums.items():
                total[name] = total.get(name, 0) + rows
        return total


def expected_calibration_error(sums: torch.Tensor) -> float:
    """Return the ECE of (bins, 3) count, sum of confidences and sum of IoUs; it is 0 for nothing."""
    return float((sums[:, 1] - sums[:, 2]).abs().sum() / sums[:, 0].sum().clamp(min=1))


def reliability_scalars(sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return the sums of `Reliability.gather` as scalars, `reliability/NAME/BIN/COLUMN`, for metrics.json."""
    return {
        f"reliability/{name.replace(' ', '_')}/{number}/{column}": value
        for name, rows in sums.items()
        for number, row in enumerate(rows.tolist())
        for column, value in zip(_COLUMNS, row, strict=True)
    }


def read_reliability(scalars: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Return the sums that the scalars of `reliability_scalars` hold, whatever their names begin with."""
    sums = {}
    for name, value in scalars.items():
        match = re.fullmatch(rf"(?:.+/)?reliability/([^/]+)/(\d)/({'|'.join(_COLUMNS)})", name)
        if match:
            rows = sums.setdefault(match[1].replace("_", " "), torch.zeros(_BINS, 3, dtype=torch.float64))
            rows[int(match[2]), _COLUMNS.index(match[3])] = value
    return sums


def reliability_figure(sums: Mapping[str, torch.Tensor]) -> Figure:
    """Draw for each name the mean IoU of each bin over its mean confidence, and the share of labels in each bin."""
    figure = Figure(figsize=(4 * max(len(sums), 1), 4), dpi=80, layout="constrained")
    for number, (name, rows) in enumerate(sums.items(), start=1):
        axes = figure.add_subplot(1, len(sums), number)
        count, confidence, iou = rows.T.numpy()
        filled = count > 0
        centers = (np.arange(_BINS) + 0.5) / _BINS
        axes.bar(centers, count / max(count.sum(), 1), 1 / _BINS, color="lightgrey", label="share of labels")
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        axes.plot(confidence[filled] / count[filled], iou[filled] / count[filled], marker="o", label="mean IoU")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=name, title=f"ECE {expected_calibration_error(rows):.3f}")
        axes.legend(loc="upper left")
    return figure


def draw_reliability(sums: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Return `reliability_figure` as (H, W, 3) uint8 RGB.

    Args:
        sums: result of `Reliability.gather`.
    """
    canvas = FigureCanvasAgg(reliability_figure(sums))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
