"""Figures as SVG by matplotlib, for a page; no name from data is in them, because the page has the legends."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# The colors of runs, which differ for color-blind readers too (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
DASHES = ("", "5 3", "1 3")  # Line styles of SVG, for the lines of one run.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "d2kit", "font.size": 9, "axes.linewidth": 0.6}


@dataclass(frozen=True)
class Line:
    """A line of a figure.

    Attributes:
        x, y: coordinates of its points.
        color: color of its run.
        dash: one of DASHES.
    """

    x: Sequence[float]
    y: Sequence[float]
    color: str
    dash: str


def svg(figure: Figure) -> str:
    """Return a figure as an element of HTML; equal figures give equal text."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    content = text.getvalue()
    return content[content.index("<svg") :]


def draw_lines(lines: Sequence[Line]) -> str:
    """Draw lines over iterations in one pair of axes; returns SVG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.3))
        axes = figure.add_axes((0.19, 0.13, 0.79, 0.78))
        for line in lines:
            style = (0, tuple(map(float, line.dash.split()))) if line.dash else "-"
            marker = "o" if len(line.x) < 3 else None
            axes.plot(line.x, line.y, color=line.color, linestyle=style, linewidth=1.3, marker=marker, markersize=4)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.set_xlim(left=0)
    return svg(figure)
