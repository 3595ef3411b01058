"""S4M's grids: rows, data sets and figures of tools/compare.py and tools/ablate.py."""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from d2kit.config_files import config_folder
from experiments.grid import Grid, Training
from experiments.record import describe_file
from s4m.data.shapes import write_shapes
from s4m.data.splits import split_name, write_splits

# A network of minutes does not learn to tell outlines, so color tells most of them apart; masks stay the difficulty.
SHAPES = {"classes": ("circle", "square", "triangle"), "tinted": 0.9}
PUBLISHED = ("SD", "PR", "ARP")
GUARDS = ("boundary", "calibration", "matching")  # each is added to refinement, not to a mean teacher
STAGE2_SWITCHES = ("PR", "ARP", *GUARDS)
STAGE1_WEIGHTS = "S4M.TEACHER.WEIGHTS"
# What turns stage 2 into supervised training on its schedule.
LABELS_ALONE = (
    *("DATASETS.UNLABELED", "()", STAGE1_WEIGHTS, "", "S4M.TEACHER.EMA_DECAY", "0.9996"),
    *("S4M.STUDENT_INIT", "backbone", "S4M.UNSUP_WEIGHT", "2.0", "S4M.PR.ENABLED", "False", "S4M.ARP.ENABLED", "False"),
)
NETWORKS = ("student", "teacher")
METRICS = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")
QUALITY = "pseudo_label_quality/"


class Rows:
    """The trainings of a comparison or an ablation with one pair of configurations, one for each stage."""

    def __init__(self, prefix: str, student: str | None = None, backbone: str | None = None) -> None:
        """
        Args:
            prefix: of configs/quick/<prefix>_stage1.yaml and <prefix>_stage2.yaml.
            student, backbone: None, or overlays of configs/quick/overlays; those of one data set alone are taken where
                they exist.
        """
        self._prefix, self._student, self._backbone = prefix, student, backbone

    def config_files(self, stage: str) -> tuple[str, ...]:
        """The configuration file of "stage1" or "stage2" and its overlays."""
        overlays = []
        if self._student:
            overlays += [f"{self._student}_{stage}", f"{self._prefix}_{self._student}"]
        if self._backbone:
            overlays += [self._backbone, f"{self._prefix}_{self._backbone}"]
        if self._student and self._backbone:
            overlays.append(f"{self._backbone}_{self._student}")
        paths = [f"quick/overlays/{name}.yaml" for name in overlays]
        existing = [path for path in paths if (config_folder() / path).is_file()]
        return tuple(f"configs/{path}" for path in (f"quick/{self._prefix}_{stage}.yaml", *existing))

    def supervised(self) -> Training:
        """The baseline of stage 1, without structural distillation."""
        return Training("supervised", "supervised", self.config_files("stage1"), ("S4M.SD.ENABLED", "False"))

    def stage1(self, title: str) -> Training:
        """Stage 1 as its configuration says."""
        return Training("stage1", title, self.config_files("stage1"), against="supervised")

    def supervised_longer(self) -> Training:
        """The baseline goes on for as many iterations as stage 2 has."""
        files, title = self.config_files("stage2"), "supervised, as many iterations"
        return Training("supervised_longer", title, files, LABELS_ALONE, "supervised", against="supervised")

    def stage2(self, name: str, title: str, switches: Sequence[str] | None, against: str = "") -> Training:
        """Stage 2 with these switches on and the others off; None: as its configuration says.

        "SD" chooses the weights that it starts from.
        """
        options = []
        for switch in STAGE2_SWITCHES if switches is not None else ():
            options += [f"S4M.{switch.upper()}.ENABLED", str(switch in switches)]
        start = "stage1" if switches is None or "SD" in switches else "supervised"
        return Training(name, title, self.config_files("stage2"), tuple(options), start, STAGE1_WEIGHTS, against)

    def comparison(self) -> list[Training]:
        """Supervised baseline, mean teacher and S4M."""
        return [
            self.supervised(),
            self.stage1("S4M stage 1"),
            self.stage2("mean_teacher", "mean teacher", ()),
            self.stage2("stage2", "S4M", None),
            self.supervised_longer(),
        ]

    def ablation(self) -> list[Training]:
        """Each part alone, all, and each one left out.

        `plus_X` is the mean teacher with one switch; a guard is added to refinement (PR). `without_X` is everything
        but one; without refinement there is nothing to match, so that matching goes with it.
        """
        rows = [self.supervised(), self.stage1("supervised + SD"), self.supervised_longer()]
        rows.append(self.stage2("mean_teacher", "mean teacher", (), "supervised_longer"))
        for name in PUBLISHED:
            rows.append(self.stage2(f"plus_{name}".lower(), f"mean teacher + {name}", (name,), "mean_teacher"))
        for name in GUARDS:
            rows.append(self.stage2(f"plus_{name}", f"mean teacher + PR + {name}", ("PR", name), "plus_pr"))
        rows.append(self.stage2("published", "SD + PR + ARP", PUBLISHED, "mean_teacher"))
        rows.append(self.stage2("all", "all", (*PUBLISHED, *GUARDS), "published"))
        for name in (*PUBLISHED, *GUARDS):
            absent = (name, "matching") if name == "PR" else (name,)
            switches = [switch for switch in (*PUBLISHED, *GUARDS) if switch not in absent]
            title = "all without " + " and ".join(absent)
            rows.append(self.stage2(f"without_{name}".lower(), title, switches, "all"))
        return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that compare and ablate share: configuration, data set, labeled share and seeds."""
    parser.add_argument("--prefix", default="shapes", help="of configs/quick/PREFIX_stage1.yaml and PREFIX_stage2.yaml")
    parser.add_argument("--student", choices=("mask2former",), help="in place of Mask R-CNN")
    parser.add_argument("--backbone", choices=("vit",), help="with MODEL.VIT.CHECKPOINT FILE in --opts")
    parser.add_argument("--train", type=Path, nargs=2, metavar=("JSON", "IMAGES"), help="default: synthetic shapes")
    parser.add_argument("--test", type=Path, nargs=2, metavar=("JSON", "IMAGES"))
    parser.add_argument("--percent", type=float, default=5, help="labeled share of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the data, the split and the trainings")


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with absolute paths."""
    args = parser.parse_args()
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    for name in ("train", "test"):
        if paths := getattr(args, name):
            setattr(args, name, [path.resolve() for path in paths])
    return args


def data_settings(args: argparse.Namespace) -> dict[str, str | float]:
    """What decides the figures beside the configurations: data and labeled share."""
    settings: dict[str, str | float] = {"labeled percent": args.percent}
    for name, paths in (("training data", args.train), ("test data", args.test)):
        settings[name] = f"{describe_file(paths[0])} {paths[1]}" if paths else "synthetic shapes"
    return settings


def test_set(args: argparse.Namespace, seed: int) -> tuple[Path, Path]:
    """The json and the images of a seed's test set."""
    folder = args.output / f"seed{seed}" / "data" / "val"
    return tuple(args.test) if args.test else (folder / "annotations.json", folder / "images")


def _training_set(args: argparse.Namespace, seed: int) -> tuple[Path, Path]:
    """The json and the images of all training images of a seed."""
    folder = args.output / f"seed{seed}" / "data" / "train"
    return tuple(args.train) if args.train else (folder / "annotations.json", folder / "images")


def data_options(args: argparse.Namespace, training: Training, seed: int) -> list[str]:
    """KEY VALUE pairs that name the sets of a training, which `write_data` writes, by their paths."""
    json_file, images = _training_set(args, seed)
    test_json, test_images = test_set(args, seed)
    splits = args.output / f"seed{seed}" / "splits"
    options = ["DATASETS.TEST", f"('coco:{test_json}:{test_images}',)"]
    keys = {"TRAIN": False, "UNLABELED": True} if training.start_key == STAGE1_WEIGHTS else {"TRAIN": False}
    for key, unlabeled in keys.items():
        split = splits / f"{json_file.stem}_{split_name(args.percent, 0, unlabeled)}.json"
        options += [f"DATASETS.{key}", f"('coco:{split}:{images}',)"]
    return options


def write_data(args: argparse.Namespace) -> None:
    """Write the sets of each seed under its folder: splits of --train, or of 2,000 shapes beside 100 to test."""
    for seed in args.seeds:
        folder = args.output / f"seed{seed}"
        if not args.train:
            write_shapes(folder / "data" / "train", 2000, seed=seed, **SHAPES)
            write_shapes(folder / "data" / "val", 100, seed=seed + 1000, **SHAPES)
        json_file, _ = _training_set(args, seed)
        write_splits(json_file, [args.percent], folds=1, seed=seed, output=folder / "splits")


def make_grid(args: argparse.Namespace, trainings: Sequence[Training], options: Sequence[str], **more) -> Grid:
    """The grid of trainings over --seeds with the options that come last."""
    data = functools.partial(data_options, args)
    return Grid(args.output, trainings, args.seeds, final_figures, data=data, options=options, **more)


def final_figures(folder: Path) -> dict[str, float]:
    """The last evaluation in a training's `metrics.json`.

    Args:
        folder: OUTPUT_DIR of the training.

    Returns:
        `student/segm/AP` and the like, in percent, for the networks that were evaluated; what was measured of the
        pseudo-labels (fractions, and numbers an image), with `accepted`, the share of the masks of SAM that were
        taken, where SAM was asked; and `iteration`.

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
