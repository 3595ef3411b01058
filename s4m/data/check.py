"""Data sets are checked before training: their jsons, the headers of their images, their classes and their copies.

What the check says is what training does, because `load_labeled` and `load_unlabeled` load through it.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from s4m.data.classes import class_indices, classes_of, training_classes
from s4m.data.coco import read_set
from s4m.data.coco_records import tell_crowds
from s4m.data.duplicates import find_copies
from s4m.data.faults import ERROR, Faults
from s4m.data.header_cache import read_headers
from s4m.data.images import Header, first_missing
from s4m.data.mappers import crowds_as_objects

ON_BAD_IMAGE = ("skip", "stop")
_TURNED = {3: 180, 6: 90, 8: 270}  # degrees clockwise by EXIF orientation, without mirrors


def _size_problem(path: str, header: Header, record: dict) -> str | None:
    """Say that an image is not of its record's (height, width); None if it is."""
    wanted = (record.get("height"), record.get("width"))
    if None in wanted or wanted == header.size:
        return None
    height, width = header.size
    told = f"the image '{path}' is {width}x{height}, but its json says {wanted[1]}x{wanted[0]}"
    if header.orientation > 4 and wanted == header.size[::-1]:
        degrees = _TURNED.get(header.orientation)
        how = f"turns it by {degrees} degrees" if degrees else "turns and mirrors it"
        told += f": its EXIF orientation {header.orientation} {how}, and the json was made without regard to it"
    return told


def check_images(records: Sequence[dict], faults: Faults, *, skip_bad: bool = False) -> list[dict]:
    """Check the headers of all images against their records.

    An image that cannot be read is an error, or with `skip_bad` a warning; one of another size than its record is an
    error; one of more than 8 bits a channel is a warning.

    Args:
        records: Detectron2 dataset dicts.
        faults: gets what is found.
        skip_bad: whether images that cannot be read are left out.

    Returns:
        the dicts whose images can be read.
    """
    missing = first_missing(record["file_name"] for record in records)
    if missing:
        faults.error("images that do not exist", f"the image '{missing}' does not exist", FileNotFoundError)
        return list(records)
    headers = read_headers(record["file_name"] for record in records)
    good = []
    for record in records:
        path = record["file_name"]
        header = headers[path]
        if header.problem and skip_bad:
            faults.warning("images that cannot be read, left out", header.problem)
            continue
        good.append(record)
        size_problem = None if header.problem else _size_problem(path, header, record)
        if header.problem:
            faults.error("images that cannot be read", header.problem)
        elif size_problem:
            faults.error("images of another size than their json says", size_problem)
        if header.deep:
            faults.warning("images of more than 8 bits, scaled as INPUT.DEPTH says", f"'{path}'")
    return good


def check_set(
    name: str, *, labeled: bool, skip_bad: bool = False, objects_of_crowds: bool = False
) -> tuple[list[dict], Faults]:
    """Read a registered set and check it by all rules.

    Args:
        name: registered name.
        labeled: whether its annotations are used.
        skip_bad: whether images that cannot be read are left out.
        objects_of_crowds: whether annotations with iscrowd 1 are objects.

    Returns:
        the dataset dicts, and the faults; with an error among them the dicts are not to be used.
    """
    records, faults = read_set(name)
    if labeled and objects_of_crowds:
        records = crowds_as_objects(records)
    if labeled:
        tell_crowds((a for record in records for a in record.get("annotations", ())), faults)
    good = check_images(records, faults, skip_bad=skip_bad)
    if not good and not faults.of(ERROR):
        reason = f" that can be read: {read_headers([records[0]['file_name']]).popitem()[1].problem}" if records else ""
        faults.error("sets without an image", f"data set '{name}' has no image{reason}")
    return good, faults


def tell_classes(name: str, classes: Sequence[str], trained: Sequence[str]) -> Faults:
    """Warn of classes that a set for evaluation has and training lacks, or the other way round."""
    faults = Faults(f"'{MetadataCatalog.get(name).get('json_file', name)}'")
    indices = class_indices(classes, trained)
    for other in (name for name, index in zip(classes, indices, strict=False) if index < 0):
        faults.warning("classes that training lacks, whose objects do not count", f"'{other}'")
    for other in (name for name in trained if classes and name not in classes):
        faults.warning("classes of training that the set for evaluation lacks", f"'{other}'")
    return faults


def tell_copies(labeled: Sequence[dict], unlabeled: Sequence[dict], tested: Sequence[dict]) -> list[str]:
    """Return sentences about images that are in two sets by the bytes of their files.

    The same path among labeled and unlabeled images is fine, because the unlabeled set may be the whole training set.
    """
    names, others, tests = ({d["file_name"] for d in dicts} for dicts in (labeled, unlabeled, tested))
    rules = (
        (names, others - names, "unlabeled image(s) are labeled images under another name"),
        (tests, others, "unlabeled image(s) are images of DATASETS.TEST"),
        (tests, names, "labeled image(s) are images of DATASETS.TEST"),
    )
    sentences = []
    for first, second, what in rules:
        copies = find_copies(first, second)
        if copies:
            sentences.append(f"{len(copies)} {what}, for example '{copies[0][1]}' is '{copies[0][0]}'")
    return sentences


def check_config(cfg: CfgNode) -> tuple[list[Faults], list[str]]:
    """Check all sets that DATASETS of a configuration names, after their registration.

    Returns:
        the faults of each set, in the order TRAIN, UNLABELED, TEST, and the sentences of `tell_copies`.
    """
    found = {key: [] for key in ("TRAIN", "UNLABELED", "TEST")}
    all_faults = []
    for key, dicts in found.items():
        for name in cfg.DATASETS[key]:
            skips = key == "UNLABELED" and cfg.INPUT.ON_BAD_IMAGE == "skip"
            records, faults = check_set(
                name,
                labeled=key != "UNLABELED",
                skip_bad=skips,
                objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS,
            )
            dicts += records
            all_faults.append(faults)
            if key == "TEST" and not faults.of(ERROR):
                all_faults.append(tell_classes(name, classes_of(name), training_classes(cfg)))
    if any(faults.of(ERROR) for faults in all_faults):
        return all_faults, []
    return all_faults, tell_copies(*found.values())
