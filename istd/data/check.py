"""The check of data sets: one pass that finds every fault before a training starts."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kit.faults import ERROR, Faults
from istd.data.check_facts import Facts, Reading, read_facts
from istd.data.datasets import name_defaults, resolve_datasets
from istd.data.images import JPEG_EXTENSIONS
from istd.data.polarity import check_polarity
from istd.data.spots import Spot, judge_spots, why_none_is_easy
from istd.pseudo_masks.initialize import target_scale

logger = logging.getLogger(__name__)

KEYS = ("TRAIN", "VALIDATION", "TEST")
INVERTED = 0.5  # A mask with more than this share of target pixels shows the background in white.
MISPLACED = 0.5  # Points and masks do not belong together if more than this share of the points lies off the masks.


def check_config(cfg: CfgNode) -> list[Faults]:
    """Check the data sets of a configuration; every image and mask is read.

    Returns:
        the faults of DATASETS.TRAIN, VALIDATION and TEST, and before them those of their defaults if there are any.
    """
    faults = Faults("DATASETS")
    try:
        name_defaults(cfg, faults)
    except FileNotFoundError as error:
        faults.error("data sets", error)
        return [faults]
    return [faults] * bool(list(faults)) + check_groups({f"DATASETS.{key}": cfg.DATASETS[key] for key in KEYS}, cfg)


def check_before_training(cfg: CfgNode) -> None:
    """Check the data sets of a configuration, after their registration, and log what is found.

    Raises:
        FileNotFoundError, ValueError: there is an error; the sentence names the key.
    """
    all_faults = check_groups({f"DATASETS.{key}": cfg.DATASETS[key] for key in KEYS}, cfg)
    if any(faults.of(ERROR) for faults in all_faults):
        lines = [line for faults in all_faults for line in faults.lines()]
        logger.error("The check of the data sets found:\n%s", "\n".join(lines))
    for faults in all_faults:
        faults.refuse()
        faults.log()


def check_groups(groups: Mapping[str, Sequence[str]], cfg: CfgNode) -> list[Faults]:
    """Check data sets that are registered or named by their path.

    Args:
        groups: names of data sets by configuration key, such as DATASETS.TRAIN, or by any other name; rules that depend
            on what a set is for are applied to the keys.
        cfg: configuration, whose ISTD keys say how images are read and what training needs.

    Returns:
        the faults of each group.
    """
    node = cfg.ISTD
    reading = Reading(
        value_range=node.INPUT.RANGE,
        polarity=check_polarity(node.INPUT.POLARITY),
        scale=target_scale(node.LABELS.TARGET_SIZE),
        easy_share=node.LABELS.EASY_SHARE,
    )
    all_faults = []
    seen: dict[str, dict[str, str]] = {}
    for key, names in groups.items():
        faults = Faults(key)
        records, facts = _read_group(names, reading, faults)
        _judge_files(records, facts, faults)
        if key == "DATASETS.TRAIN":
            _judge_training(records, facts, cfg, faults)
        elif key in ("DATASETS.VALIDATION", "DATASETS.TEST"):
            _judge_scored(records, faults)
        else:
            for fault in judge_spots(_spots(records, facts), node.INPUT.POLARITY, node.LABELS.TARGET_SIZE):
                faults.warning(fault.headline, fault.examples[0], fault.count)
        _judge_copies(key, records, facts, seen, faults)
        all_faults.append(faults)
    return all_faults


def _read_group(names: Sequence[str], reading: Reading, faults: Faults) -> tuple[list[dict], list[Facts]]:
    """Return the dicts of several data sets and their facts."""
    records = []
    facts = []
    for name in names:
        try:
            resolve_datasets([name])
            open_folder = MetadataCatalog.get(name).get("open_folder")
            dicts = open_folder().read(faults) if open_folder else DatasetCatalog.get(name)
        except (ValueError, OSError) as error:
            faults.error("data sets", error)
            continue
        records += dicts
        facts += read_facts(dicts, reading, name)
    return records, facts


def _judge_files(records: Sequence[dict], facts: Sequence[Facts], faults: Faults) -> None:
    """Apply the rules for images, masks, and points beside masks."""
    points = 0
    points_off = []
    empty = []
    for record, fact in zip(records, facts, strict=True):
        for note in fact.notes:
            faults.add(*note)
        for error, cause in ((fact.image_error, "images"), (fact.mask_error, "masks")):
            if error:
                faults.error(f"{cause} that cannot be read", error)
        if not fact.image_error and not fact.digest:
            faults.warning("images of one value", f"{record['file_name']} has the same value everywhere.")
        if fact.mask_share < 0:
            continue
        mask = record["mask_file"]
        if fact.mask_share > INVERTED:
            sentence = f"{100 * fact.mask_share:.1f} % of mask {mask} is target: targets are white in a mask."
            faults.error("inverted masks", sentence)
        if not fact.mask_share:
            empty.append(mask)
            _judge_empty_mask(record, faults)
        elif record.get("points") == []:
            faults.warning("masks with targets whose image has no point", f"{mask} has targets.")
        points += len(record.get("points") or ())
        points_off += [mask] * fact.points_off
    masks = sum("mask_file" in record for record in records)
    if empty and len(empty) == masks:
        level = "error" if points else "warning"
        faults.add(level, "empty masks", f"all {masks} masks are empty, {empty[0]} for one.", masks)
    elif len(points_off) > MISPLACED * points:
        sentence = f"{len(points_off)} of {points} points lie beside the masks' targets, in {points_off[0]} for one."
        faults.warning("points beside masks", sentence, len(points_off))


def _judge_empty_mask(record: dict, faults: Faults) -> None:
    """Apply the rules for a mask without target, which is a fault beside points."""
    if not record.get("points"):
        return
    sentence = f"mask {record['mask_file']} is all black, but its image has {len(record['points'])} points"
    if Path(record["mask_file"]).suffix.lower() in JPEG_EXTENSIONS:
        sentence += ": a JPEG does not keep a mask of 0 and 1; save it as PNG."
        faults.error("masks that cannot be read", sentence)
    else:
        faults.warning("empty masks beside points", f"{sentence}.")


def _judge_training(records: Sequence[dict], facts: Sequence[Facts], cfg: CfgNode, faults: Faults) -> None:
    """Apply the rules for images to train on."""
    node = cfg.ISTD.LABELS
    if not records:
        if not faults.of(ERROR):
            faults.error("data sets", "there is no image to train on.")
        return
    by_masks = node.SOURCE == "masks"
    label = "mask_file" if by_masks else "points"
    for record in records:
        if record.get(label) is None:
            name = "mask" if by_masks else "points"
            sentence = f"{record['file_name']} has no {name}, which ISTD.LABELS.SOURCE '{node.SOURCE}' needs."
            faults.error(f"images without {name}", sentence)
    if by_masks or faults.of(ERROR):
        return
    if not any(record["points"] for record in records):
        faults.error("points", f"there is no point in any of the {len(records)} training images.")
        return
    spots = _spots(records, facts)
    size = node.TARGET_SIZE if node.START == "contours" else math.inf
    judged = judge_spots(spots, cfg.ISTD.INPUT.POLARITY, size)
    needs_easy = node.START == "contours" and node.POOL == "easy"
    if needs_easy and not judged.of(ERROR) and not any(fact.easy for fact in facts):
        sentence = why_none_is_easy(len(records), spots, cfg.ISTD.INPUT.POLARITY, size)
        faults.error("first masks", sentence)
    else:
        for fault in judged:
            faults.add(fault.level, fault.headline, fault.examples[0], fault.count)


def _spots(records: Sequence[dict], facts: Sequence[Facts]) -> list[tuple[str, Spot]]:
    """Return the image file and the spot of each point."""
    return [(record["file_name"], spot) for record, fact in zip(records, facts, strict=True) for spot in fact.spots]


def _judge_scored(records: Sequence[dict], faults: Faults) -> None:
    """Apply the rules for images to validate or test on."""
    for record in records:
        if "mask_file" not in record and record.get("points") is None:
            sentence = f"{record['file_name']} cannot be scored, because it has neither a mask nor points."
            faults.error("images without mask and points", sentence)


def _judge_copies(
    key: str, records: Sequence[dict], facts: Sequence[Facts], seen: dict[str, dict[str, str]], faults: Faults
) -> None:
    """Tell images that a group holds twice, or that a group before holds too, by content.

    Args:
        seen: group -> digest -> file; this group is added.
    """
    own: dict[str, str] = {}
    for record, fact in zip(records, facts, strict=True):
        file = record["file_name"]
        if fact.digest in own:
            sentence = f"{file} is the same image as {own[fact.digest]}."
            faults.warning("images that are there twice", sentence)
        elif fact.digest:
            own[fact.digest] = file
    for other, files in seen.items():
        both = [digest for digest in own if digest in files]
        if both:
            first, second = own[both[0]], files[both[0]]
            where = first if first == second else f"{first}, which is {second}"
            sentence = f"{len(both)} images of {key} are images of {other}, too: {where}, for one."
            faults.warning(f"images of {other}", sentence, len(both))
    seen[key] = own
