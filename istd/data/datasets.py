"""Detectron2 data sets from SIRST-style folders of images, masks, points (one per target) and split files."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kit.datasets import Form, locate, resolve, resolve_config
from d2kit.description import BASE, Key, read_description
from d2kit.faults import Faults
from istd.data.points import UNITS
from istd.data.sirst_folder import ON_MISMATCH, SirstFolder

KEYS = {  # of a file that describes a data set; beside the first two they are the options of a name
    BASE: Key("folder"),
    "split": Key("file", required=True, suffix=".txt"),
    "points": Key("path", may_be_empty=True),
    "images": Key("folder"),
    "masks": Key("folder", may_be_empty=True),
    "characteristics": Key("file"),
    "on_mismatch": Key(ON_MISMATCH),
    "unit": Key(tuple(UNITS)),
}
OPTIONS = tuple(KEYS)[2:]
DEFAULT_ROOT = "sirst:datasets/sirst:"  # The shipped configurations name data sets that begin with this.


def load_sirst(root: str | os.PathLike, split: str, **options) -> list[dict]:
    """Read a split of a SIRST-style folder; the header of every file is checked, and nothing is written.

    Args:
        root: folder of the data set.
        split: text file with one image name per line, with or without extension ("train" means "train.txt").
        options: options of `SirstFolder`.

    Returns:
        dicts with file_name, image_id (name with its folders, without extension), height and width, and, if the data
            set has them, with mask_file, points (list of [x, y], 0-based pixel indices) and characteristic.

    Raises:
        FileNotFoundError, ValueError: a file is absent or unfit; the message names it.
    """
    faults = Faults()
    dicts = SirstFolder(root, split, **options).read(faults)
    faults.refuse()
    faults.log()
    return dicts


def register_sirst(
    name: str, root: str | os.PathLike, split: str, *, prepare: Callable[[], object] = lambda: None, **options
) -> None:
    """Register `load_sirst(root, split, **options)` in Detectron2's DatasetCatalog as `name`.

    The files are read when the data set is first loaded, after a call of `prepare`, which may write them. The metadata
    are evaluator_type "istd", thing_classes ("target",), root, and open_folder, a function that returns the
    `SirstFolder`.
    """

    was_read = False  # The faults are told the first time.

    def open_folder() -> SirstFolder:
        nonlocal was_read
        was_read = True
        prepare()
        return SirstFolder(root, split, **options)

    def load() -> list[dict]:
        faults = Faults()
        tells = not was_read
        dicts = open_folder().read(faults)
        faults.refuse()
        if tells:
            faults.log()
        return dicts

    DatasetCatalog.register(name, load)
    metadata = MetadataCatalog.get(name)
    metadata.set(evaluator_type="istd", thing_classes=["target"], root=os.fspath(root), open_folder=open_folder)


def give_distinct_ids(sets: Sequence[tuple[str, list[dict]]]) -> list[list[dict]]:
    """Put the name of the data set before the image ids that different images of several data sets share.

    The name is that of the root folder, or the registered name where two root folders have the same name.

    Args:
        sets: registered names and dataset dicts.

    Returns:
        the dicts of each set, with other dicts in place of those whose id changes. An image that several data sets
        name keeps one id.
    """
    roots = [Path(MetadataCatalog.get(name).get("root") or name).name for name, _ in sets]
    prefixes = roots if len(set(roots)) == len(roots) else [name for name, _ in sets]
    images = {(record["image_id"], record["file_name"]) for _, records in sets for record in records}
    counts = Counter(image_id for image_id, _ in images)
    return [
        [
            {**record, "image_id": f"{prefix}/{record['image_id']}"} if counts[record["image_id"]] > 1 else record
            for record in records
        ]
        for prefix, (_, records) in zip(prefixes, sets, strict=True)
    ]


def _register_by_path(name: str, root: str, split: str, text: str | None) -> None:
    options = dict(item.partition("=")[::2] for item in (text or "").split(",") if item)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"data set '{name}' has no option {', '.join(unknown)}; the options are {', '.join(OPTIONS)}")
    register_sirst(name, locate(root, name), split, **options)


def _register_described(name: str, file: str) -> None:
    """Register what a data set file with the keys of KEYS describes."""
    path = locate(file, name)
    options = read_description(path, KEYS)
    root = options.pop(BASE, None) or Path(path).absolute().parent
    register_sirst(name, root, options.pop("split"), **options)


_FILE = r"(?:(?!:\w+=).)+\.(?i:ya?ml|json)"  # An option may end like a file, as points=points.json does.
FORMS = (
    Form("sirst:ROOT:SPLIT[:OPTION=VALUE,...]", rf"sirst:(?!{_FILE}$)(.+?):([^:=]+)(?::(\w+=.*)?)?", _register_by_path),
    Form("sirst:FILE.yaml", f"sirst:({_FILE})", _register_described),
)


def resolve_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Register the data sets that are named by their path; see `d2kit.datasets.resolve`.

    Args:
        names: registered names, "sirst:ROOT:SPLIT", "sirst:ROOT:SPLIT:OPTION=VALUE,OPTION=VALUE" with the options of
            `SirstFolder`, for example "sirst:/data/own:train.txt:points=points.csv,on_mismatch=skip", or "sirst:FILE",
            where FILE ends in .yaml, .yml or .json and has keys of KEYS. A relative root or file that does not exist is
            looked up under the environment variable DETECTRON2_DATASETS.
    """
    return resolve(names, FORMS)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register the data sets that DATASETS.TRAIN, VALIDATION and TEST name by path. Errors name the key."""
    faults = Faults()
    name_defaults(cfg, faults)
    faults.log()
    resolve_config(cfg, ("TRAIN", "VALIDATION", "TEST"), FORMS)


def name_defaults(cfg: CfgNode, faults: Faults) -> None:
    """Add a warning for data sets that a configuration still has by default while DATASETS.TRAIN names others.

    Raises:
        FileNotFoundError: such a data set does not exist; the message names its key.
    """
    names = cfg.DATASETS.TRAIN
    if not names or any(name.startswith(DEFAULT_ROOT) for name in names):
        return
    for key in ("VALIDATION", "TEST"):
        for name in cfg.DATASETS[key]:
            if not name.startswith(DEFAULT_ROOT):
                continue
            sentence = (
                f"DATASETS.{key} has its default, '{name}', while DATASETS.TRAIN names other data: set DATASETS.{key}, "
                'to "()" for none'
            )
            try:
                locate(name.split(":")[1], name)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{sentence}; {error}") from error
            faults.warning("data sets by default", f"{sentence}.")
