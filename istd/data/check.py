"""The check of data sets: one pass that finds every fault before a training starts."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from istd.data.check_facts import Facts, Reading, read_facts
from istd.data.datasets import name_defaults, resolve_datasets
from istd.data.findings import Findings
from istd.data.images import JPEG_EXTENSIONS
from istd.data.polarity import check_polarity
from istd.data.spots import Spot, judge_spots, why_none_is_easy
from istd.pseudo_masks.initialize import target_scale

logger = logging.getLogger(__name__)

KEYS = ("TRAIN", "VALIDATION", "TEST")
INVERTED = 0.5  # A mask with more than this share of target pixels shows the background in white.
MISPLACED = 0.5  # Points and masks do not belong together if more than this share of the points lies off the masks.


def check_config(cfg: CfgNode) -> Findings:
    """Check the data sets of a configuration: DATASETS.TRAIN, VALIDATION and TEST; every image and mask is read."""
    findings = Findings()
    try:
        name_defaults(cfg, findings)
    except FileNotFoundError as error:
        findings.add("error", "data sets", error)
        return findings
    findings.take(check_groups({f"DATASETS.{key}": cfg.DATASETS[key] for key in KEYS}, cfg))
    return findings


def check_before_training(cfg: CfgNode) -> None:
    """Log what `check_config` finds.

    Raises:
        ValueError: there is an error; the sentence names the key and tells how many other causes there are.
    """
    findings = check_config(cfg)
    errors = findings.errors
    if not errors:
        findings.log(__name__)
        return
    others = len(errors) - 1
    if others:
        logger.error("The check of the data sets found:\n%s", "\n".join(findings.lines()))
    more = f" The data sets have {others} other fault{'s' * (others > 1)}, see above." if others else ""
    key, colon, _ = errors[0].name.partition(": ")
    raise ValueError(f"{key + colon if colon else ''}{errors[0]}{more}")


def check_groups(groups: Mapping[str, Sequence[str]], cfg: CfgNode) -> Findings:
    """Check data sets that are registered or named by their path.

    Args:
        groups: names of data sets by configuration key, such as DATASETS.TRAIN, or by any other name; rules that depend
            on what a set is for are applied to the keys.
        cfg: configuration, whose ISTD keys say how images are read and what training needs.
    """
    node = cfg.ISTD
    reading = Reading(
        value_range=node.INPUT.RANGE,
        polarity=check_polarity(node.INPUT.POLARITY),
        scale=target_scale(node.LABELS.TARGET_SIZE),
        easy_share=node.LABELS.EASY_SHARE,
    )
    findings = Findings()
    seen: dict[str, dict[str, str]] = {}
    for key, names in groups.items():
        part = Findings()
        records, facts = _read_group(names, reading, part)
        _judge_files(records, facts, part)
        if key == "DATASETS.TRAIN":
            _judge_training(records, facts, cfg, part)
        elif key in ("DATASETS.VALIDATION", "DATASETS.TEST"):
            _judge_scored(records, part)
        else:
            for cause in judge_spots(_spots(records, facts), node.INPUT.POLARITY, node.LABELS.TARGET_SIZE):
                part.add("warning", cause.name, cause.examples[0], cause.count)
        _judge_copies(key, records, facts, seen, part)
        findings.take(part, f"{key}: ")
    return findings


def _read_group(names: Sequence[str], reading: Reading, findings: Findings) -> tuple[list[dict], list[Facts]]:
    """Return the dicts of several data sets and their facts."""
    records = []
    facts = []
    for name in names:
        try:
            resolve_datasets([name])
            open_folder = MetadataCatalog.get(name).get("open_folder")
            dicts = open_folder().read(findings) if open_folder else DatasetCatalog.get(name)
        except (ValueError, OSError) as error:
            findings.add("error", "data sets", error)
            continue
        records += dicts
        facts += read_facts(dicts, reading, name)
    return records, facts


def _judge_files(records: Sequence[dict], facts: Sequence[Facts], findings: Findings) -> None:
    """Apply the rules for images, masks, and points beside masks."""
    points = 0
    points_off = []
    empty = []
    for record, fact in zip(records, facts, strict=True):
        for note in fact.notes:
            findings.add(*note)
        for error, cause in ((fact.image_error, "images"), (fact.mask_error, "masks")):
            if error:
                findings.add("error", f"{cause} that cannot be read", error)
        if not fact.image_error and not fact.digest:
            findings.add("warning", "images of one value", f"{record['file_name']} has the same value everywhere.")
        if fact.mask_share < 0:
            continue
        mask = record["mask_file"]
        if fact.mask_share > INVERTED:
            sentence = f"{100 * fact.mask_share:.1f} % of mask {mask} is target: targets are white in a mask."
            findings.add("error", "inverted masks", sentence)
        if not fact.mask_share:
            empty.append(mask)
            _judge_empty_mask(record, findings)
        points += len(record.get("points") or ())
        points_off += [mask] * fact.points_off
    masks = sum("mask_file" in record for record in records)
    if empty and len(empty) == masks:
        level = "error" if points else "warning"
        findings.add(level, "empty masks", f"all {masks} masks are empty, {empty[0]} for one.", masks)
    elif len(points_off) > MISPLACED * points:
        sentence = f"{len(points_off)} of {points} points lie beside the masks' targets, in {points_off[0]} for one."
        findings.add("warning", "points beside masks", sentence, len(points_off))


def _judge_empty_mask(record: dict, findings: Findings) -> None:
    """Apply the rules for a mask without target, which is a fault beside points."""
    if not record.get("points"):
        return
    sentence = f"mask {record['mask_file']} is all black, but its image has {len(record['points'])} points"
    if Path(record["mask_file"]).suffix.lower() in JPEG_EXTENSIONS:
        sentence += ": a JPEG does not keep a mask of 0 and 1; save it as PNG."
        findings.add("error", "masks that cannot be read", sentence)
    else:
        findings.add("warning", "empty masks beside points", f"{sentence}.")


def _judge_training(records: Sequence[dict], facts: Sequence[Facts], cfg: CfgNode, findings: Findings) -> None:
    """Apply the rules for images to train on."""
    node = cfg.ISTD.LABELS
    if not records:
        if not findings.errors:
            findings.add("error", "data sets", "there is no image to train on.")
        return
    by_masks = node.SOURCE == "masks"
    label = "mask_file" if by_masks else "points"
    for record in records:
        if record.get(label) is None:
            name = "mask" if by_masks else "points"
            sentence = f"{record['file_name']} has no {name}, which ISTD.LABELS.SOURCE '{node.SOURCE}' needs."
            findings.add("error", f"images without {name}", sentence)
    if by_masks or findings.errors:
        return
    spots = _spots(records, facts)
    size = node.TARGET_SIZE if node.START == "contours" else math.inf
    judged = judge_spots(spots, cfg.ISTD.INPUT.POLARITY, size)
    needs_easy = node.START == "contours" and node.POOL == "easy"
    if needs_easy and not judged.errors and not any(fact.easy for fact in facts):
        sentence = why_none_is_easy(len(records), spots, cfg.ISTD.INPUT.POLARITY, size)
        findings.add("error", "first masks", sentence)
    else:
        findings.take(judged)


def _spots(records: Sequence[dict], facts: Sequence[Facts]) -> list[tuple[str, Spot]]:
    """Return the image file and the spot of each point."""
    return [(record["file_name"], spot) for record, fact in zip(records, facts, strict=True) for spot in fact.spots]


def _judge_scored(records: Sequence[dict], findings: Findings) -> None:
    """Apply the rules for images to validate or test on."""
    for record in records:
        if "mask_file" not in record and record.get("points") is None:
            sentence = f"{record['file_name']} cannot be scored, because it has neither a mask nor points."
            findings.add("error", "images without mask and points", sentence)


def _judge_copies(
    key: str, records: Sequence[dict], facts: Sequence[Facts], seen: dict[str, dict[str, str]], findings: Findings
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
            findings.add("warning", "images that are there twice", sentence)
        elif fact.digest:
            own[fact.digest] = file
    for other, files in seen.items():
        both = [digest for digest in own if digest in files]
        if both:
            first, second = own[both[0]], files[both[0]]
            where = first if first == second else f"{first}, which is {second}"
            sentence = f"{len(both)} images of {key} are images of {other}, too: {where}, for one."
            findings.add("warning", f"images of {other}", sentence, len(both))
    seen[key] = own
