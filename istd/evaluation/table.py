"""A table of finished trainings: mean and deviation over seeds, of the whole test set and by target characteristic."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml

from istd.data.scenery import CHARACTERISTICS

FIGURES = ("IoU", "nIoU", "Pd", "Fa")
ANSWERS = {"istd": "student", "istd_teacher": "teacher"}
OVERALL = "all"

# figures[data set][student or teacher]["all" or characteristic][figure]
Figures = dict[str, dict[str, dict[str, dict[str, float]]]]


@dataclass(frozen=True)
class RunResult:
    """What one finished training gave.

    Attributes:
        network, scheme, variant: the row that it belongs to; variant is empty but in a sweep.
        seed: of the training.
        epochs: of the training.
        seconds: of the processes that trained it.
        validation: the figure that selected its checkpoint, nan where there was no validation.
        figures: IoU, nIoU and Pd in %, Fa in 1e-6; what has no value is left out.
    """

    network: str
    scheme: str
    variant: str
    seed: int
    epochs: float
    seconds: float
    validation: float
    figures: Figures


def read_figures(path: str | os.PathLike) -> Figures:
    """Figures of a `test/results.json` of `ISTDTrainer`."""
    results = json.loads(Path(path).read_text(encoding="utf-8"))["results"]
    figures: Figures = {}
    for key, value in results.items():
        dataset, task, name = key.rsplit("/", 2)
        name, _, split = name.partition("-")
        if task in ANSWERS and name in FIGURES and value is not None:
            answers = figures.setdefault(dataset, {}).setdefault(ANSWERS[task], {})
            answers.setdefault(split or OVERALL, {})[name] = value
    return figures


def read_run(folder: str | os.PathLike, *, scheme: str, variant: str, seed: int, seconds: float) -> RunResult:
    """The `RunResult` of a training's OUTPUT_DIR."""
    folder = Path(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    best = folder / "model_best.json"
    validation = json.loads(best.read_text(encoding="utf-8"))["metric"] if best.is_file() else math.nan
    return RunResult(
        network=config["ISTD"]["NETWORK"]["NAME"],
        scheme=scheme,
        variant=variant,
        seed=seed,
        epochs=config["ISTD"]["SCHEDULE"]["EPOCHS"],
        seconds=seconds,
        validation=validation,
        figures=read_figures(folder / "test" / "results.json"),
    )


def _spread(values: Sequence[float]) -> dict:
    """Mean and sample deviation; None for what is not there: the deviation of one value, everything of none."""
    known = [value for value in values if not math.isnan(value)]
    return {
        "mean": mean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "values": known,
    }


def summarize(runs: Sequence[RunResult]) -> list[dict]:
    """Rows of the table, in the order of the runs' first seeds.

    Returns:
        one dict for each network, scheme, variant, data set and answer (student, and teacher where there is one):
        these five, "seeds", "epochs", "seconds" and "validation" (mean, std, values), and "figures":
        {"all" or characteristic: {"IoU": {"mean", "std", "values"}, ...}}.
    """
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.network, run.scheme, run.variant), []).append(run)
    rows = []
    for (network, scheme, variant), members in groups.items():
        common = {
            "network": network,
            "scheme": scheme,
            "variant": variant,
            "seeds": [run.seed for run in members],
            "epochs": members[0].epochs,
            "seconds": _spread([run.seconds for run in members]),
            "validation": _spread([run.validation for run in members]),
        }
        for dataset, answers in members[0].figures.items():
            for answer in answers:
                found = [run.figures.get(dataset, {}).get(answer, {}) for run in members]
                rows.append({**common, "dataset": dataset, "answer": answer, "figures": _over_seeds(found)})
    return rows


def _over_seeds(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict]]:
    splits = dict.fromkeys(split for figures in found for split in figures)
    order = [split for split in (OVERALL, *CHARACTERISTICS) if split in splits]
    order += sorted(split for split in splits if split not in order)
    return {
        split: {name: _spread([figures.get(split, {}).get(name, math.nan) for figures in found]) for name in FIGURES}
        for split in order
    }


def best_variants(rows: Sequence[dict]) -> dict[tuple[str, str], str]:
    """(network, scheme) -> the variant with the greatest mean figure on the validation images.

    The test set takes no part; rows without a validation figure or without a variant are left out.
    """
    best: dict[tuple[str, str], dict] = {}
    for row in rows:
        key, value = (row["network"], row["scheme"]), row["validation"]["mean"]
        if row["variant"] and value is not None and (key not in best or value > best[key]["validation"]["mean"]):
            best[key] = row
    return {key: row["variant"] for key, row in best.items()}


def _cell(figure: dict) -> str:
    if figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.2f}" + (f" ± {figure['std']:.2f}" if figure["std"] is not None else "")


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines)) + "\n"


def _split_table(rows: Sequence[dict], split: str) -> str:
    varied = any(row["variant"] for row in rows)
    header = ["Network", "Scheme", *(["Variant"] if varied else []), "Answer", "Epochs", "Seeds", "Validation"]
    lines = []
    for row in rows:
        if split in row["figures"]:
            cells = [row["network"], row["scheme"], *([row["variant"]] if varied else []), row["answer"]]
            cells += [f"{row['epochs']:g}", ", ".join(map(str, row["seeds"])), _cell(row["validation"])]
            lines.append([*cells, *(_cell(row["figures"][split][name]) for name in FIGURES)])
    return _markdown([*header, *FIGURES], lines)


def format_markdown(rows: Sequence[dict], note: str = "", failed: dict[str, str] | None = None) -> str:
    """The table as Markdown: IoU, nIoU and Pd in %, Fa in 1e-6, mean ± standard deviation over seeds.

    Args:
        rows: of `summarize`.
        note: a paragraph above the tables, for example the command.
        failed: run -> why it has no figures; named below.

    Returns:
        a section a data set; in it the whole set, then a table a target characteristic, then the best variants.
    """
    parts = [note + "\n"] if note else []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        parts.append(f"## {dataset}\n")
        splits = dict.fromkeys(split for row in here for split in row["figures"])
        for split in splits:
            parts += [f"### {split}\n", _split_table(here, split)]
    if best := best_variants(rows):
        parts.append("## Best variants on the validation images\n")
        parts.append(_markdown(["Network", "Scheme", "Variant"], [[*key, variant] for key, variant in best.items()]))
    if failed:
        parts.append("## Runs without figures\n")
        parts.append("\n".join(f"- {name}: {reason}" for name, reason in failed.items()) + "\n")
    return "\n".join(parts)
