"""S4M's grids have the rows, data sets and figures of tools/compare.py and tools/ablate.py."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from d2kit.config_files import config_folder
from experiments.grid import Grid, Training
from experiments.record import describe_file
from s4m.data.builtin import write_shapes_sets
from s4m.data.splits import split_name, write_splits

PUBLISHED = ("SD", "PR", "ARP")
GUARDS = ("boundary", "calibration", "matching")  # Each is added to refinement, not to a mean teacher.
EVERYTHING = (*PUBLISHED, *GUARDS)
STAGE2_SWITCHES = ("PR", "ARP", *GUARDS)
STAGE1_WEIGHTS = "S4M.TEACHER.WEIGHTS"
# These options turn stage 2 into supervised training on its schedule.
LABELS_ALONE = (
    *("DATASETS.UNLABELED", "()", STAGE1_WEIGHTS, "", "S4M.TEACHER.EMA_DECAY", "0.9996"),
    *("S4M.STUDENT_INIT", "backbone", "S4M.UNSUP_WEIGHT", "2.0", "S4M.PR.ENABLED", "False", "S4M.ARP.ENABLED", "False"),
)
COMPARISON = ("supervised", "stage1", "mean_teacher", "stage2", "supervised_longer")
NETWORKS = ("student", "teacher")
METRICS = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")
QUALITY = "pseudo_label_quality/"


def config_files(prefix: str, stage: str, student: str | None = None, backbone: str | None = None) -> tuple[str, ...]:
    """Return the file configs/quick/<prefix>_<stage>.yaml of "stage1" or "stage2", and its overlays.

    `student` and `backbone` are None or overlays of configs/quick/overlays. Those of their pair and of one data set
    alone are taken if they exist.
    """
    overlays = (f"{student}_{stage}", f"{prefix}_{student}", backbone, f"{prefix}_{backbone}", f"{backbone}_{student}")
    paths = [f"quick/overlays/{name}.yaml" for name in overlays]
    existing = [path for path in paths if (config_folder() / path).is_file()]
    return tuple(f"configs/{path}" for path in (f"quick/{prefix}_{stage}.yaml", *existing))


def trainings(prefix: str, student: str | None = None, backbone: str | None = None) -> dict[str, Training]:
    """Return all trainings of comparisons and ablations by name; the arguments are those of `config_files`.

    `plus_X` is the mean teacher with one switch; a guard is added to refinement (PR). `without_X` is everything but
    one; without refinement there is nothing to match, so that matching goes with it.
    """
    files1, files2 = (config_files(prefix, stage, student, backbone) for stage in ("stage1", "stage2"))
    longer = "supervised, as many iterations"
    rows = [
        Training("supervised", "supervised", files1, ("S4M.SD.ENABLED", "False")),
        Training("stage1", "S4M stage 1", files1, against="supervised"),
        Training("supervised_longer", longer, files2, LABELS_ALONE, "supervised", against="supervised"),
        Training("stage2", "S4M", files2, (), "stage1", STAGE1_WEIGHTS, "mean_teacher"),
    ]

    def add(name: str, title: str, switches: Sequence[str], against: str) -> None:
        """Add stage 2 with these switches on and the others off; "SD" chooses the weights that it starts from."""
        options = [item for key in STAGE2_SWITCHES for item in (f"S4M.{key.upper()}.ENABLED", str(key in switches))]
        start = "stage1" if "SD" in switches else "supervised"
        rows.append(Training(name.lower(), title, files2, tuple(options), start, STAGE1_WEIGHTS, against))

    add("mean_teacher", "mean teacher", (), "supervised_longer")
    for name in PUBLISHED:
        add(f"plus_{name}", f"mean teacher + {name}", (name,), "mean_teacher")
    for name in GUARDS:
        add(f"plus_{name}", f"mean teacher + PR + {name}", ("PR", name), "plus_pr")
    add("published", "SD + PR + ARP", PUBLISHED, "mean_teacher")
    add("all", "all", EVERYTHING, "published")
    for name in EVERYTHING:
        absent = (name, "matching") if name == "PR" else (name,)
        add(f"without_{name}", f"all without {' and '.join(absent)}", [n for n in EVERYTHING if n not in absent], "all")
    return {row.name: row for row in rows}


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add what compare and ablate share, and parse all arguments; the paths of data sets come back absolute."""
    parser.add_argument("--prefix", default="shapes", help="of configs/quick/PREFIX_stage1.yaml and PREFIX_stage2.yaml")
    parser.add_argument("--student", choices=("mask2former",), help="in place of Mask R-CNN")
    parser.add_argument("--backbone", choices=("vit",), help="with MODEL.VIT.CHECKPOINT FILE in --opts")
    paths = {"type": lambda path: Path(path).resolve(), "nargs": 2, "metavar": ("JSON", "IMAGES")}
    parser.add_argument("--train", **paths, help="default: synthetic shapes")
    parser.add_argument("--test", **paths)
    parser.add_argument("--percent", type=float, default=5, help="labeled share of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the data, the split and the trainings")
    args = parser.parse_args()
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    if args.prefix != "shapes" and not args.train:
        parser.error(f"--prefix {args.prefix} needs --train and --test, because the default is synthetic shapes")
    return args


def make_grid(args: argparse.Namespace, names: Sequence[str], **fields: Any) -> Grid:
    """Return the grid of the named trainings; `fields` are further fields of Grid."""
    known = trainings(args.prefix, args.student, args.backbone)
    rows = [known[name] for name in names]
    return Grid(args.output, rows, args.seeds, final_figures, data=partial(data_options, args), **fields)


def data_settings(args: argparse.Namespace) -> dict[str, str | float]:
    """Return what decides the figures beside the configurations: data and labeled share."""
    settings: dict[str, str | float] = {"labeled percent": args.percent}
    for name, paths in (("training data", args.train), ("test data", args.test)):
        settings[name] = f"{describe_file(paths[0])} {paths[1]}" if paths else "synthetic shapes"
    return settings


def json_and_images(args: argparse.Namespace, part: str, seed: int) -> tuple[Path, Path]:
    """Return the json and the folder of a seed's training images (part "train") or test images (part "test")."""
    folder = args.output / f"seed{seed}" / "data" / {"train": "train", "test": "val"}[part]
    return tuple(getattr(args, part) or (folder / "annotations.json", folder / "images"))


def data_options(args: argparse.Namespace, training: Training, seed: int) -> list[str]:
    """Return KEY VALUE pairs that name the sets of a training, which `write_data` writes, by their paths."""
    json_file, images = json_and_images(args, "train", seed)
    test_json, test_images = json_and_images(args, "test", seed)
    options = ["DATASETS.TEST", f"('coco:{test_json}:{test_images}',)"]
    splits = args.output / f"seed{seed}" / "data" / "splits"
    for key in ("TRAIN", "UNLABELED") if training.start_key == STAGE1_WEIGHTS else ("TRAIN",):
        name = f"{json_file.stem}_{split_name(args.percent, 0, key == 'UNLABELED')}.json"
        options += [f"DATASETS.{key}", f"('coco:{splits / name}:{images}',)"]
    return options


def write_data(args: argparse.Namespace) -> None:
    """Write the sets of each seed under its folder: splits of --train, or of 2,000 shapes beside 100 to test."""
    for seed in args.seeds:
        folder = args.output / f"seed{seed}" / "data"
        if args.train:
            write_splits(args.train[0], [args.percent], folds=1, seed=seed, output=folder / "splits")
        else:
            write_shapes_sets(folder, args.percent, seed)


def final_figures(folder: Path) -> dict[str, float]:
    """Return the last evaluation in the `metrics.json` of a training's OUTPUT_DIR.

    Returns:
        `student/segm/AP` and the like, in percent, for the networks that were evaluated; the measured quality of the
        pseudo-labels (fractions, and numbers an image), with `accepted`, the share of SAM's masks that were taken, if
        SAM gave any; and `iteration`.

    Raises:
        OSError: there is no such file.
        ValueError: the training was never evaluated.
    """
    path = folder / "metrics.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    evaluations = [line for line in lines if "student/segm/AP" in line]
    if not evaluations:
        raise ValueError(f"'{path}' holds no evaluation.")
    metrics = [f"{network}/{metric}" for network in NETWORKS for metric in METRICS]
    figures = {key: evaluations[-1][key] for key in ("iteration", *metrics) if key in evaluations[-1]}
    # The quality of pseudo-labels is measured before the last evaluation, in a line of its own.
    measured = [line for line in lines if f"{QUALITY}before/precision" in line]
    if measured:
        figures |= {key: value for key, value in measured[-1].items() if key.startswith(QUALITY)}
    refined, rejected = (figures.get(QUALITY + key, 0) for key in ("refined", "rejected"))
    if refined + rejected:
        figures[f"{QUALITY}accepted"] = refined / (refined + rejected)
    return figures
