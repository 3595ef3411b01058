"""ROC curves from the evaluator's json files, drawn as a figure."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from d2kit.files import atomic_write


@dataclass(frozen=True)
class Curve:
    """A ROC curve of pixels.

    Attributes:
        fpr, tpr: false and true positive rates in [0, 1], from (1, 1) down to (0, 0).
        auc: area under the curve, in [0, 1].
    """

    fpr: list[float]
    tpr: list[float]
    auc: float


def read_curve(path: str | os.PathLike, split: str = "all") -> Curve:
    """Read the curve from a file of `ISTDEvaluator` (OUTPUT_DIR/test/istd.json, OUTPUT_DIR/validation/istd.json).

    Args:
        path: the file.
        split: "all", or a target characteristic.

    Raises:
        FileNotFoundError, ValueError: the file is absent, or holds no curve of the split; the message names it.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))["metrics"]
        figures = metrics.get(split, {})
        if figures.get("ROC") is not None and figures["AUC"] is not None:
            fpr, tpr = ([float(value) for value in figures["ROC"][name]] for name in ("fpr", "tpr"))
            return Curve(fpr, tpr, float(figures["AUC"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{path}' does not exist.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"'{path}' is no result of the evaluator.") from error
    raise ValueError(f"'{path}' has no ROC of '{split}'; it has {', '.join(metrics)}.")


def draw_roc(curves: Mapping[str, Curve], floor: float = 1e-6) -> Figure:
    """Draw a curve for each name; the false positive axis is logarithmic, because false alarms are rare.

    Args:
        curves: {name: curve}.
        floor: smallest false positive rate of the axis; smaller rates are drawn there.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        rates = [max(rate, floor) for rate in curve.fpr]
        axes.plot(rates, curve.tpr, label=f"{name} (AUC {curve.auc:.4f})", drawstyle="steps-post")
    axes.set(xscale="log", xlim=(floor, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def save_roc(path: str | os.PathLike, curves: Mapping[str, Curve]) -> None:
    """Write the figure of `draw_roc` atomically, in the format of the file's extension (.png, .pdf, .svg)."""
    suffix = Path(path).suffix[1:] or "png"
    with atomic_write(path) as file:
        draw_roc(curves).savefig(file, format=suffix, dpi=150)
