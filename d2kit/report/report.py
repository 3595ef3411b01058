"""A report tells what one training did, or compares several; each package says what it shows of its own."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from d2kit.report.figures import COLORS, DASHES, Line, draw_lines
from d2kit.report.page import Chart, Section, Table, write_page
from d2kit.report.runs import Run, read_run
from d2kit.run_folder import leaves, read_note

REPORT = "report.html"
_NOTHING = "–"


@dataclass(frozen=True)
class Curves:
    """Figures that a report draws over the iterations.

    Attributes:
        title: heading.
        text: what they are.
        pattern: regular expression of the figures' whole names. Its group `panel` names the pair of axes, and its
            group `line`, where there is one, the line.
        lines: what each text of the group `line` means, at most three of them.
    """

    title: str
    text: str
    pattern: str
    lines: Mapping[str, str]


@dataclass(frozen=True)
class ReportParts:
    """What a package shows.

    Attributes:
        package: its name.
        add_keys: a function that adds the package's configuration keys to Detectron2's, in place.
        facts: keys of the configuration that the first table has, by their titles.
        curves: see `Curves`.
        scores: function from a run to the values of its last evaluations, by (data set, network, measure).
        sections: function from runs to further sections, such as pictures.
        commands: function from a run to the commands that go on from it, (purpose, command) each.
    """

    package: str
    add_keys: Callable[[CfgNode], None]
    facts: Mapping[str, str]
    curves: Sequence[Curves]
    scores: Callable[[Run], dict[tuple[str, str, str], float]]
    sections: Callable[[Sequence[Run]], list[Section]]
    commands: Callable[[Run], list[tuple[str, str]]]


def write_report(parts: ReportParts, folders: Sequence[str | os.PathLike], output: str | os.PathLike) -> None:
    """Write the report of the trainings in some folders to a file of HTML.

    Raises:
        FileNotFoundError, ValueError: a folder holds no figures (see `read_run`), is named twice, or there are more
            folders than colors.
        OSError: the file cannot be written.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice.")
    if len(folders) > len(COLORS):
        raise ValueError(f"a report compares at most {len(COLORS)} runs, not {len(folders)}.")
    runs = [read_run(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(run.folder)) for run in runs]
    sections = [
        Section("What was trained", tables=[_facts(parts, runs)]),
        _changed_keys(parts, runs),
        _scores(parts, runs),
        *(section for curves in parts.curves if (section := _curves(curves, runs)).charts),
        *parts.sections(runs),
        *_commands(parts, runs),
    ]
    legend = [(color, run.name) for color, run in zip(COLORS, runs, strict=False)] if len(runs) > 1 else []
    title = f"{parts.package}: {runs[0].name}" if len(runs) == 1 else f"{parts.package}: {len(runs)} runs compared"
    write_page(Path(output), title, legend, sections)


def format_number(value: float | None) -> str:
    """Return a number with five digits at most, or a dash."""
    return _NOTHING if value is None else f"{value:.5g}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or _NOTHING
    return _NOTHING if value in ("", None) else str(value)


def _facts(parts: ReportParts, runs: Sequence[Run]) -> Table:
    rows = [[title, *(_text(run.config.get(key)) for run in runs)] for title, key in parts.facts.items()]
    rows.append(["iterations", *(str(run.iterations) for run in runs)])
    rows.append(["best score", *map(_best, runs)])
    names = dict.fromkeys(name for run in runs for name in run.versions)
    rows += [[name, *(run.versions.get(name, _NOTHING) for run in runs)] for name in names]
    return Table(["", *(run.name for run in runs)], rows)


def _best(run: Run) -> str:
    note = read_note(run.folder / "model_best.json")
    if not {"metric", "iteration"} <= note.keys():
        return _NOTHING
    return f"{format_number(note['metric'])} at iteration {note['iteration']}"


def _changed_keys(parts: ReportParts, runs: Sequence[Run]) -> Section:
    """Tell the keys in which runs differ, and those of each run that differ from the defaults."""
    text = [f"{run.name} has no readable config.yaml." for run in runs if not run.config]
    known = [run for run in runs if run.config]
    tables = []
    if len(known) > 1:
        keys = sorted(set().union(*(run.config for run in known)) - {"OUTPUT_DIR"})
        rows = [[key, *(_text(run.config.get(key)) for run in known)] for key in keys]
        differing = [row for row in rows if len(set(row[1:])) > 1]
        if differing:
            tables.append(Table(["key", *(run.name for run in known)], differing))
        else:
            text.append("The configurations are the same.")
    cfg = get_cfg()
    parts.add_keys(cfg)
    defaults = json.loads(json.dumps(dict(leaves(cfg))))  # A yaml file has lists where a configuration has tuples.
    for run in known:
        changed = {key: value for key, value in sorted(run.config.items()) if value != defaults.get(key)}
        rows = [[key, _text(value), _text(defaults.get(key))] for key, value in changed.items()]
        title = f"{run.name}: {len(rows)} keys that differ from the defaults"
        tables.append(Table(["key", "value", "default"], rows, title))
    return Section("Changed keys", text, tables)


def _scores(parts: ReportParts, runs: Sequence[Run]) -> Section:
    """Make a table for each data set, with a column for each network; single classes are folded."""
    scores = {run.name: parts.scores(run) for run in runs}
    tables = []
    for data in dict.fromkeys(key[0] for values in scores.values() for key in values):
        columns = dict.fromkeys((n, key[1]) for n, values in scores.items() for key in values if key[0] == data)
        measures = dict.fromkeys(key[2] for values in scores.values() for key in values if key[0] == data)
        headings = [f"{name} {network}" if len(runs) > 1 else network for name, network in columns]
        rows = [
            [measure, *(format_number(scores[name].get((data, network, measure))) for name, network in columns)]
            for measure in measures
        ]
        tables.append(Table([data, *headings], [row for row in rows if "-" not in row[0]]))
        parted = [row for row in rows if "-" in row[0]]
        if parted:
            tables.append(Table([data, *headings], parted, f"{data}: classes and characteristics"))
    text = ["The values are those of the last evaluations."] if tables else ["There was no evaluation."]
    return Section("Results", text, tables)


def _curves(curves: Curves, runs: Sequence[Run]) -> Section:
    """Draw a chart for each panel, in which each run has its color."""
    panels: dict[str, list[tuple[str, Line]]] = {}
    dashes = dict(zip(curves.lines, DASHES, strict=False))
    for run, color in zip(runs, COLORS, strict=False):
        for name, values in run.figures.items():
            match = re.fullmatch(curves.pattern, name)
            if match:
                kind = match.groupdict().get("line") or ""
                line = Line(list(values), list(values.values()), color, dashes.get(kind, ""))
                panels.setdefault(match["panel"], []).append((kind, line))
    charts = []
    for panel in sorted(panels):
        kinds = [kind for kind in curves.lines if any(kind == shown for shown, _ in panels[panel])]
        styles = [(dashes[kind], curves.lines[kind]) for kind in kinds]
        charts.append(Chart(panel, draw_lines([line for _, line in panels[panel]]), styles))
    return Section(curves.title, [curves.text], charts=charts)


def _commands(parts: ReportParts, runs: Sequence[Run]) -> list[Section]:
    """Make a section for each run that has a configuration to go on with."""
    return [
        Section(f"Go on from {run.name}" if len(runs) > 1 else "Go on from here", commands=parts.commands(run))
        for run in runs
        if run.config
    ]
