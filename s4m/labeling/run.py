"""Label a folder of images by the teacher of a training run, with SAM's refinement and calibrated confidence."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode

from d2kit import __version__
from d2kit.files import first_line
from d2kit.rng import derive_seed
from d2kit.run_folder import checkpoint_to_use, hold_file, training_keys
from s4m.data.datasets_by_path import load_image_folder
from s4m.labeling.files import LabelLines, label_file, merge_shards, read_info, require_same_labeling
from s4m.labeling.model import STAGE_1, build_mapper, calibrate, label_image, load_model, run_config, training_names

# The keys that decide on the labels of a checkpoint, or their beginnings.
SETTINGS = (
    "INPUT.FORMAT",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.RANGE",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "S4M.CALIBRATION.",
    "S4M.MATCHING.",
    "S4M.PR.",
    "S4M.SAM.NAME",
    "S4M.SELECTION.",
    "SEED",
)


class Labeled(NamedTuple):
    """The result of a labeling.

    Attributes:
        path: labels.json, or the json of the shard where other shards are missing.
        checkpoint: the checkpoint that labeled.
        info: the `info` of the json.
        failed: the reason for each image that was left out; empty where the labels were there already.
    """

    path: Path
    checkpoint: Path
    info: dict[str, Any]
    failed: dict[str, str]


def describe_labeling(cfg: CfgNode, run: Path, checkpoint: Path, network: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the `info` of a labeling: what decides on the labels, without a path of this machine.

    Args:
        cfg: result of `run_config`.
        run: folder of the run.
        checkpoint: file of its weights.
        network: "teacher", "student" or STAGE_1.
        names: names of all images within their folder.
    """
    settings = {key: value for key, value in training_keys(cfg).items() if key.startswith(SETTINGS)}
    listing = hashlib.blake2b("\n".join(names).encode(errors="surrogateescape"), digest_size=8)
    return {
        "description": "pseudo-labels of s4m label",
        "version": __version__,
        "run": run.resolve().name,
        "checkpoint": checkpoint.name,
        "checkpoint_digest": _digest(checkpoint),
        "network": network,
        "images": len(names),
        "images_digest": listing.hexdigest(),
        "settings": settings
        | {"TEST.DETECTIONS_PER_IMAGE": cfg.TEST.DETECTIONS_PER_IMAGE}
        | {"S4M.SAM.CACHE": bool(cfg.S4M.SAM.CACHE)},
    }


def _digest(path: Path) -> str:
    """Return a short hash of a file's content."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def label_folder(
    run: str | os.PathLike,
    images: str | os.PathLike,
    output: str | os.PathLike,
    *,
    network: str = "teacher",
    shard: tuple[int, int] = (1, 1),
    options: Sequence[str] = (),
    watch: Callable[[Sequence, int], Iterable] = lambda images, done: images,
) -> Labeled:
    """Label all images of a folder, or go on with a labeling that was killed; the result is the same bit for bit.

    Images are labeled one at a time, and random numbers follow SEED and the name of the image, so shards give the
    labels of the whole. The last shard to end merges those that are in the same folder.

    Args:
        run: folder that a training wrote; its best checkpoint labels, or the newest where there is none.
        images: folder of images, with its subfolders.
        output: folder of labels.json.
        network: "teacher" or "student"; stage 1 has one network.
        shard: number from 1 of this part of the images, and number of parts.
        options: KEY VALUE pairs that change the run's configuration.
        watch: function (images to do, number of images done) -> the images, for a progress bar.

    Raises:
        BlockingIOError: another process labels the same part.
        FileNotFoundError, KeyError, OSError, ValueError: the run, the images or the output do not fit.
    """
    run = Path(run)
    cfg, is_stage_1 = run_config(run, options)
    checkpoint = checkpoint_to_use(run)
    records = load_image_folder(images)
    network = STAGE_1 if is_stage_1 else network
    info = describe_labeling(cfg, run, checkpoint, network, [record["image_id"] for record in records])
    path = label_file(output, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = {}
    with hold_file(path.with_name(f".{path.stem}.lock"), f"'{path}' is being written by another process"):
        if path.is_file():
            require_same_labeling(read_info(path), info, path)
            LabelLines(path).path.unlink(missing_ok=True)
        else:
            part = list(enumerate(records, 1))[shard[0] - 1 :: shard[1]]
            failed = _label(cfg, info, checkpoint, part, LabelLines(path), watch)
        merged = merge_shards(output, shard[1]) if shard[1] > 1 else None
    path = merged or path
    return Labeled(path, checkpoint, read_info(path), failed)


def _label(
    cfg: CfgNode,
    info: dict[str, Any],
    checkpoint: Path,
    part: Sequence[tuple[int, dict]],
    lines: LabelLines,
    watch: Callable[[Sequence, int], Iterable],
) -> dict[str, str]:
    """Label numbered dataset dicts into the lines, and finish these; returns the reasons for images left out."""
    model, classes = load_model(cfg, checkpoint, info["network"], len(part))
    head = lines.head()
    if head is None:
        classes = classes or training_names(cfg)
        calibration = calibrate(cfg, model, classes)
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        lines.begin({"info": info | {"calibration": calibration}, "categories": categories})
    else:
        require_same_labeling(head["info"], info, lines.path)
        if model.calibration is not None:
            weights = torch.tensor(head["info"]["calibration"]["weights"], dtype=torch.float64)
            model.calibration.weights.copy_(weights)
    done = lines.mend()
    mapper = build_mapper(cfg)
    for number, record in watch(part[done:], done):
        name = record["image_id"]
        try:
            entry = mapper(record)
        except (OSError, ValueError) as error:
            if cfg.INPUT.ON_BAD_IMAGE == "stop":
                raise
            lines.append({"failed": name, "reason": first_line(error)})
            continue
        annotations = label_image(model, entry, derive_seed(max(cfg.SEED, 0), "label", name))
        height, width = entry["source_size"]
        image = {"id": number, "file_name": name, "height": height, "width": width}
        lines.append({"image": image, "annotations": [{"image_id": number, **own} for own in annotations]})
    return lines.finish()
