"""The grid of networks x schemes x seeds is behind tools/reproduce_table.py and tools/demo_istd.py."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import yaml

from experiments.grid import Training
from experiments.table import Row, markdown, spread
from istd.data.scenery import CHARACTERISTICS

# The networks and the schemes are in the order of the published table.
NETWORKS = ("alclnet", "gglnet", "mlclnet", "mshnet", "repisdnet", "dnanet", "sctransnet", "acm", "alcnet")
SCHEMES = ("full", "regions", "lesps", "pal", "semantic_prior")
FIGURES = ("IoU", "nIoU", "Pd", "Fa")
ANSWERS = {"istd": "student", "istd_teacher": "teacher"}
SEPARATOR = " | "


def plan(
    networks: Sequence[str], schemes: Sequence[str], sweep: Sequence[str] = (), overlays: Sequence[str] = ()
) -> list[Training]:
    """Return all rows of a table in the order of the published one.

    A sweep is a configuration key and the values that it takes in turn. Overlays are configuration files on top.
    """
    variants = [f"{sweep[0]}={value}" for value in sweep[1:]] or ["-"]
    trainings = []
    for network, scheme, variant in product(NETWORKS, SCHEMES, variants):
        if network in networks and scheme in schemes:
            name = f"{network}_{scheme}" + (f"-{variant}" if sweep else "")
            files = (f"configs/istd/networks/{network}.yaml", f"configs/istd/schemes/{scheme}.yaml", *overlays)
            options = tuple(variant.split("=", 1)) if sweep else ()
            trainings.append(Training(name, SEPARATOR.join([network, scheme, variant]), files, options))
    return trainings


def data_options(folder: Path) -> list[str]:
    """Return the options that make a SIRST-style folder the data."""
    pairs = (("TRAIN", "train.txt"), ("VALIDATION", "val.txt"), ("TEST", "test.txt:on_mismatch=skip"))
    return [item for key, split in pairs for item in (f"DATASETS.{key}", f"('sirst:{folder.resolve()}:{split}',)")]


def final_figures(folder: Path) -> dict[str, float]:
    """Return the figures in the OUTPUT_DIR of a finished training.

    Returns:
        "epochs"; "validation", the figure that selected the checkpoint, where there was one; and by
        "DATA SET/ANSWER/SPLIT/FIGURE" (student or teacher; "all" or a characteristic of the targets) IoU, nIoU and Pd
        in % and Fa in 1e-6, without those that have no value.

    Raises:
        OSError: a file is missing, because the test set was not scored.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    figures = {"epochs": config["ISTD"]["SCHEDULE"]["EPOCHS"]}
    best = folder / "model_best.json"
    if best.is_file():
        figures["validation"] = json.loads(best.read_text(encoding="utf-8"))["metric"]
    results = json.loads((folder / "test" / "results.json").read_text(encoding="utf-8"))["results"]
    for key, value in results.items():
        dataset, task, name = key.rsplit("/", 2)
        figure, _, split = name.partition("-")
        if task in ANSWERS and figure in FIGURES and value is not None:
            figures[f"{dataset}/{ANSWERS[task]}/{split or 'all'}/{figure}"] = value
    return figures


def table(rows: Sequence[Row], dataset: str, split: str) -> str:
    """Return the table of students, and of teachers if there are some, on one data set and split.

    IoU, nIoU and Pd are in %, Fa in 1e-6, mean ± standard deviation over seeds.
    """
    lines = []
    for row in rows:
        for answer in ANSWERS.values():
            values = [row.values(f"{dataset}/{answer}/{split}/{figure}") for figure in FIGURES]
            if any(values):
                seeds = ", ".join(seed for seed in row.seeds if seed not in row.failures)
                cells = [*row.title.split(SEPARATOR), answer, spread(row.values("epochs")[:1], 0), seeds]
                cells += [spread(figure, 2) for figure in (row.values("validation"), *values)]
                lines.append([*cells, spread(row.values("seconds"), 0)])
    header = ["Network", "Scheme", "Variant", "Answer", "Epochs", "Seeds", "Validation", *FIGURES, "Seconds"]
    return markdown(header, lines)


def all_tables(rows: Sequence[Row]) -> str:
    """Return a section for each data set: the table of the whole set, then one for each characteristic of the targets.

    Below stand the values of a sweep that are best on the validation images; the test set takes no part in that.
    """
    names = [name for row in rows for figures in row.seeds.values() for name in figures]
    keys = [name.rsplit("/", 3) for name in names if name.count("/") > 2]
    sections = []
    for dataset in dict.fromkeys(key[0] for key in keys):
        sections.append(f"## {dataset}")
        splits = {key[2] for key in keys if key[0] == dataset}
        for split in dict.fromkeys(("all", *CHARACTERISTICS, *sorted(splits))):
            if split in splits:
                sections += [f"### {split}", table(rows, dataset, split)]
    if best := best_of_sweep(rows):
        sections += ["## Best on the validation images", markdown(["Network", "Scheme", "Variant"], best)]
    return "\n\n".join(sections)


def best_of_sweep(rows: Sequence[Row]) -> list[list[str]]:
    """Return [network, scheme, variant] of the variants with the greatest mean figure on the validation images."""
    variants: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        network, scheme, variant = row.title.split(SEPARATOR)
        if variant != "-" and (values := row.values("validation")):
            variants.setdefault((network, scheme), {})[variant] = mean(values)
    return [[*key, max(means, key=means.get)] for key, means in variants.items()]
