"""Table and plot of an ablation."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from d2kit.files import atomic_write

AP = "student/segm/AP"
_COLUMNS = {
    "mask AP": AP,
    "AP50": "student/segm/AP50",
    "EMA teacher mask AP": "teacher/segm/AP",
    "box AP": "student/bbox/AP",
}
_PREFIX = "pseudo_label_quality/"
_CHANGES = {
    "pseudo-label precision, before → after SAM": ("before/precision", "after/precision"),
    "pseudo-label recall, before → after SAM": ("before/recall", "after/recall"),
    "pseudo-label IoU, before → after SAM": ("before/iou", "after/iou"),
    "ECE, class score → confidence": ("ece/class_score", "ece/calibrated_confidence"),
}
Row = Mapping[str, Any]


def _over_seeds(row: Row, read: Callable[[Mapping[str, float]], float]) -> list[float]:
    """A figure of each seed that is finished and has it."""
    values = []
    for figures in row["seeds"].values():
        try:
            values.append(read(figures))
        except KeyError:
            continue
    return values


def _spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and standard deviation as text; the mean alone of one; a dash of none."""
    if not values:
        return "-"
    text = f"{mean(values):{sign}.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def differences(row: Row, rows: Sequence[Row]) -> list[float]:
    """Student mask AP of a row minus that of the row it is held against, seed by seed."""
    against = next((other for other in rows if other["name"] == row["against"]), None)
    if against is None:
        return []
    pairs = [(row["seeds"][seed], against["seeds"].get(seed, {})) for seed in row["seeds"]]
    return [own[AP] - other[AP] for own, other in pairs if AP in own and AP in other]


def _accepted(figures: Mapping[str, float]) -> float:
    """Share of the pseudo-labels that SAM was asked about whose mask is SAM's.

    Raises:
        KeyError: SAM was not asked.
    """
    refined, rejected = figures[_PREFIX + "refined"], figures[_PREFIX + "rejected"]
    if refined + rejected == 0:
        raise KeyError("refined")
    return refined / (refined + rejected)


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    against = next((other["title"] for other in rows if other["name"] == row["against"]), "-")
    values = {title: _over_seeds(row, lambda figures, key=key: figures[key]) for title, key in _COLUMNS.items()}
    cells = [_spread(values["mask AP"], 1), _spread(differences(row, rows), 1, "+"), against]
    cells += [_spread(values[title], 1) for title in list(_COLUMNS)[1:]]
    for keys in _CHANGES.values():
        before, after = (_over_seeds(row, lambda figures, key=_PREFIX + key: figures[key]) for key in keys)
        cells.append(f"{mean(before):.3f} → {mean(after):.3f}" if before and after else "-")
    cells.append(_spread(_over_seeds(row, _accepted), 3))
    cells.append(_spread(_over_seeds(row, lambda figures: figures[_PREFIX + "match/over_segmented"]), 3))
    return [*cells, _spread(_over_seeds(row, lambda figures: figures["seconds"]), 0)]


def ablation_table(rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """A Markdown page: what was run, one line a row, and by name what failed.

    Figures are means and standard deviations over the seeds, AP in percent, pseudo-labels on annotated test images
    before and after SAM (fractions). A difference is taken seed by seed. Over-segmented is where SAM's most trusted
    answer was a part of the object, which is known where its masks are matched to instances.

    Args:
        rows: as `s4m.engine.ablation.Ablation.run` returns them.
        settings: what decides the figures, told above the table.
    """
    lines = ["# Ablation", "", *(f"- {key}: {value}" for key, value in settings.items()), ""]
    head = ["row", "mask AP", "difference", "against", *list(_COLUMNS)[1:]]
    head += [*_CHANGES, "SAM's masks accepted", "over-segmented", "seconds"]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    failures = []
    for row in rows:
        failed = {seed: figures["failed"] for seed, figures in row["seeds"].items() if "failed" in figures}
        title = row["title"]
        if failed:
            title += f" ({len(row['seeds']) - len(failed)} of {len(row['seeds'])} seeds)"
            failures += [f"- {row['title']}, seed {seed}: {reason}" for seed, reason in failed.items()]
        lines.append("| " + " | ".join([title, *_cells(row, rows)]) + " |")
    if failures:
        lines += ["", "Without figures:", "", *failures]
    return "\n".join(lines) + "\n"


def ablation_plot(rows: Sequence[Row], path: str | Path, title: str = "") -> Path:
    """Student mask AP of each row (diamond: mean, dots: seeds), beside precision and recall of the pseudo-labels.

    Args:
        rows: as `s4m.engine.ablation.Ablation.run` returns them.
        path: png to write.
        title: above the plot.
    """
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for y, row in enumerate(rows):
        scores = _over_seeds(row, lambda figures: figures[AP])
        if not scores:
            left.text(0.01, y, "no figure", va="center", color="firebrick", transform=left.get_yaxis_transform())
            continue
        left.plot([min(scores), max(scores)], [y, y], color="tab:blue", alpha=0.5)
        left.plot(scores, [y] * len(scores), "k.", markersize=5)
        left.plot(mean(scores), y, "D", color="tab:blue", markersize=7, zorder=1)
        change = differences(row, rows)
        note = f"{mean(scores):.1f}" + (f" ({mean(change):+.1f})" if change else "")
        left.annotate(note, (max(scores), y), (8, 0), textcoords="offset points", va="center", fontsize=8)
        for what, marker, color in (("precision", "o", "tab:green"), ("recall", "s", "tab:orange")):
            for when, face in (("before", "none"), ("after", color)):
                key = f"pseudo_label_quality/{when}/{what}"
                found = _over_seeds(row, lambda figures, key=key: figures[key])
                if found:
                    right.plot(mean(found), y, marker, color=color, markerfacecolor=face)
    left.set(yticks=range(len(rows)), yticklabels=[row["title"] for row in rows], xlabel="student mask AP (change)")
    left.margins(x=0.3)
    left.grid(axis="x", alpha=0.3)
    left.set_ylim(len(rows) - 0.5, -0.5)
    right.set(xlabel="pseudo-labels, hollow before SAM, full after", xlim=(0, 1))
    for what, marker, color in (("precision", "o", "tab:green"), ("recall", "s", "tab:orange")):
        right.plot([], [], marker, color=color, label=what)
    right.legend(loc="lower left", fontsize=8)
    right.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return Path(path)
