"""Detectron2 data sets from SIRST-style folders of images, masks, points (one per target) and split files."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kit.datasets import Form, locate, resolve, resolve_config
from istd.data.images import SizeMismatch, find_image, image_name, image_size
from istd.data.points import PointSource, read_table

logger = logging.getLogger(__name__)

CHARACTERISTICS = "characteristics.csv"
OPTIONS = ("points", "images", "masks", "characteristics", "on_mismatch")


def load_sirst(
    root: str | os.PathLike,
    split: str,
    *,
    points: str = "masks_centroid",
    images: str = "images",
    masks: str = "masks",
    characteristics: str = "",
    on_mismatch: str = "error",
) -> list[dict]:
    """Read a split of a SIRST-style folder; the header of every file is checked, and nothing is written.

    Args:
        root: folder of the data set; the paths below are absolute or relative to it.
        split: text file with one image name per line, with or without extension ("train" means "train.txt").
        points: source of points, see `PointSource`; "" means no points (inference, full supervision).
        images: folder of images with any of EXTENSIONS.
        masks: folder of masks, named like the images; "" means no masks. An image without a mask has no "mask_file".
        characteristics: CSV with the columns image, characteristic; "" takes `root`/characteristics.csv if it exists.
        on_mismatch: "error", or "skip" to skip, with a warning, images whose mask or points have another size.

    Returns:
        dicts with file_name, image_id (name without extension), height and width, and, if the data set has them, with
            mask_file, points (list of [x, y], 0-based pixel indices) and characteristic.

    Raises:
        FileNotFoundError, ValueError: a file is absent or unfit; the message names it.
    """
    root = Path(root)
    if on_mismatch not in ("error", "skip"):
        raise ValueError(f"on_mismatch must be 'error' or 'skip', not '{on_mismatch}'.")
    split_file = _split_file(root, split)
    for folder in filter(None, (images, masks)):
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root / folder} is not a folder: the data set of {split_file} needs it.")
    source = PointSource(root / points) if points else None
    characteristic_of = _read_characteristics(root, characteristics)
    dicts = []
    for name in _read_split(split_file):
        record = _image_record(root / images, name, split_file)
        try:
            _add_mask(record, root / masks if masks else None)
            _add_points(record, source, split_file)
        except SizeMismatch as error:
            if on_mismatch == "error":
                raise
            logger.warning("%s The image is skipped.", error)
            continue
        if record["image_id"] in characteristic_of:
            record["characteristic"] = characteristic_of[record["image_id"]]
        dicts.append(record)
    return dicts


def register_sirst(
    name: str, root: str | os.PathLike, split: str, *, prepare: Callable[[], object] = lambda: None, **options
) -> None:
    """Register `load_sirst(root, split, **options)` in Detectron2's DatasetCatalog as `name`.

    The files are read when the data set is first loaded, after a call of `prepare`, which may write them. The metadata
    are evaluator_type "istd", thing_classes ("target",) and root.
    """

    def load() -> list[dict]:
        prepare()
        return load_sirst(root, split, **options)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type="istd", thing_classes=["target"], root=os.fspath(root))


def _register_by_path(name: str, root: str, split: str, text: str | None) -> None:
    options = dict(item.partition("=")[::2] for item in (text or "").split(",") if item)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"data set '{name}' has no option {', '.join(unknown)}; the options are {', '.join(OPTIONS)}")
    register_sirst(name, locate(root, name), split, **options)


FORMS = (Form("sirst:ROOT:SPLIT[:OPTION=VALUE,...]", "sirst:([^:]+):([^:]+)(?::(.*))?", _register_by_path),)


def resolve_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Register the data sets that are named by their path; see `d2kit.datasets.resolve`.

    Args:
        names: registered names, "sirst:ROOT:SPLIT", or "sirst:ROOT:SPLIT:OPTION=VALUE,OPTION=VALUE" with the options of
            `load_sirst`, for example "sirst:/data/own:train.txt:points=points.csv,on_mismatch=skip". A relative root
            that does not exist is looked up under the environment variable DETECTRON2_DATASETS.
    """
    return resolve(names, FORMS)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register the data sets that DATASETS.TRAIN, VALIDATION and TEST name by path. Errors name the key."""
    resolve_config(cfg, ("TRAIN", "VALIDATION", "TEST"), FORMS)


def _split_file(root: Path, split: str) -> Path:
    for path in (root / split, root / f"{split}.txt"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"the split file {root / split} does not exist.")


def _read_split(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 ({error}).") from error
    names = [name for name in names if name]
    seen: set[str] = set()
    for name in names:
        stem = image_name(name)
        if stem in seen:
            raise ValueError(f"{path} names image '{stem}' twice.")
        seen.add(stem)
    return names


def _image_record(folder: Path, name: str, split_file: Path) -> dict:
    path = find_image(folder, name)
    if path is None:
        raise FileNotFoundError(f"{split_file} names image '{name}', which is not in {folder}.")
    height, width = image_size(path)
    return {"file_name": str(path), "image_id": image_name(name), "height": height, "width": width}


def _add_mask(record: dict, folder: Path | None) -> None:
    path = find_image(folder, record["image_id"]) if folder else None
    if path is None:
        return
    height, width = image_size(path)
    if (height, width) != (record["height"], record["width"]):
        raise SizeMismatch(
            f"mask {path} is {width}x{height} pixels but its image {record['file_name']} is "
            f"{record['width']}x{record['height']}."
        )
    record["mask_file"] = str(path)


def _add_points(record: dict, source: PointSource | None, split_file: Path) -> None:
    if source is None:
        return
    try:
        record["points"] = source(record["image_id"], record["height"], record["width"])
    except KeyError as error:
        raise ValueError(
            f"{split_file} names image '{record['image_id']}', which has no points in {source.source}."
        ) from error


def _read_characteristics(root: Path, option: str) -> dict[str, str]:
    path = root / (option or CHARACTERISTICS)
    if not path.is_file():
        if option:
            raise FileNotFoundError(f"the characteristics {path} do not exist.")
        return {}
    rows = read_table(path, ("image", "characteristic"))
    return {image_name(row["image"]): row["characteristic"] for _, row in rows}
