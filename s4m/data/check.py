"""Data sets are checked before training: their jsons, the headers of their images, their classes and their copies.

What the check says is what training does, because `load_labeled` and `load_unlabeled` load through it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2kit.faults import ERROR, Faults
from s4m.data.classes import classes_of, training_classes
from s4m.data.coco import complete_annotations, is_coco_set, read_content, read_set, write_json
from s4m.data.coco_records import tell_crowds
from s4m.data.duplicates import find_copies, find_reencoded
from s4m.data.header_cache import read_headers
from s4m.data.images import first_missing, size_problem_of, tell_orientation
from s4m.data.mappers import crowds_as_objects, without_labels

ON_BAD_IMAGE = ("skip", "stop")


def check_images(records: Sequence[dict], faults: Faults, *, skip_bad: bool = False) -> list[dict]:
    """Check the headers of all images against their records.

    An image that cannot be read is an error, or with `skip_bad` a warning; one of another size than its record is an
    error; one with an EXIF orientation or of more than 8 bits a channel is a warning.

    Args:
        records: Detectron2 dataset dicts.
        faults: gets what is found.
        skip_bad: whether images that cannot be read are left out.

    Returns:
        the dicts whose images can be read.
    """
    missing = first_missing(record["file_name"] for record in records)
    if missing:
        faults.error("images that do not exist", FileNotFoundError(f"the image '{missing}' does not exist"))
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
        if header.problem:
            faults.error("images that cannot be read", header.problem)
            continue
        size_problem = size_problem_of(path, header, (record.get("height"), record.get("width")))
        if size_problem:
            faults.error("images of another size than their json says", size_problem)
        elif "height" in record:
            tell_orientation(path, header, faults)
        if header.frames > 1:
            faults.warning(
                "images of several pages or frames, of which the first is read", f"'{path}' of {header.frames}"
            )
        if header.deep:
            faults.warning("images of more than 8 bits, scaled as INPUT.RANGE says", f"'{path}'")
    return good


def check_set(
    name: str,
    *,
    labeled: bool,
    skip_bad: bool = False,
    objects_of_crowds: bool = False,
    first: str | None = None,
    evaluated: bool = False,
) -> tuple[list[dict], Faults]:
    """Read a registered set and check it by all rules.

    Args:
        name: registered name.
        labeled: whether its annotations are used.
        skip_bad: whether images that cannot be read are left out.
        objects_of_crowds: whether annotations with iscrowd 1 are objects.
        first: the first of the training sets if this is one: it needs annotations, and the classes of the first.
        evaluated: whether it is a set for evaluation, which needs an annotation.

    Returns:
        the dataset dicts, and the faults; with an error among them the dicts are not to be used.
    """
    records, faults = read_set(name)
    if labeled and objects_of_crowds:
        records = crowds_as_objects(records)
    if labeled:
        tell_crowds((a for record in records for a in record.get("annotations", ())), faults)
    if first is not None and records and not faults.of(ERROR):
        if "annotations" not in records[0]:
            faults.error("training sets without annotations", f"'{name}' has no annotations")
        elif set(classes_of(name)) != set(classes_of(first)):
            faults.error("training sets of other classes", f"'{first}' and '{name}' differ in their classes")
    if evaluated and records and not faults.of(ERROR) and not any(record.get("annotations") for record in records):
        faults.error("sets for evaluation without annotations", f"'{name}' has no annotation to evaluate by")
    good = check_images(records, faults, skip_bad=skip_bad)
    if not good and not faults.of(ERROR):
        reason = f" that can be read: {read_headers([records[0]['file_name']]).popitem()[1].problem}" if records else ""
        faults.error("sets without an image", f"data set '{name}' has no image{reason}")
    return good, faults


def tell_classes(name: str, trained: Sequence[str], faults: Faults) -> None:
    """Add warnings of classes that a set for evaluation has and training lacks, or the other way round."""
    classes = classes_of(name)
    if not classes or not trained:
        return
    if not set(classes) & set(trained):
        told = f"none of its classes, such as '{classes[0]}', has the name of one of training, such as '{trained[0]}'"
        faults.warning(f"{told}: they are taken in their order")
        return
    for other in (other for other in classes if other not in trained):
        faults.warning("classes that training lacks, whose objects do not count", f"'{other}'")
    for other in (other for other in trained if other not in classes):
        faults.warning("classes of training that the set for evaluation lacks", f"'{other}'")


def tell_copies(labeled: Sequence[dict], unlabeled: Sequence[dict], tested: Sequence[dict]) -> list[str]:
    """Return sentences about images that are in two sets by the bytes of their files, or as pictures.

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
        paired = {path for pair in copies for path in pair}
        copies += find_reencoded(first - paired, second - paired)
        if copies:
            sentences.append(f"{len(copies)} {what}, for example '{copies[0][1]}' is '{copies[0][0]}'")
    return sentences


def write_repaired(name: str, path: Path, *, objects_of_crowds: bool = False) -> Path:
    """Write the repaired json of a registered set, with `area` and `iscrowd` in every annotation; returns its path.

    Raises:
        ValueError: the set has no json, the path is its json, or the json has errors.
    """
    metadata = MetadataCatalog.get(name)
    if not is_coco_set(name):
        raise ValueError(f"--write: the data set '{name}' has no json to repair")
    if os.path.realpath(path) == os.path.realpath(metadata.json_file):
        raise ValueError(f"--write must name another file than '{metadata.json_file}', which is checked")
    data = read_content(name)
    for annotation in data.get("annotations", ()) if objects_of_crowds else ():
        annotation["iscrowd"] = 0
    complete_annotations(data)
    return write_json(path, data)


def check_sets(names: Sequence[str], cfg: CfgNode) -> list[Faults]:
    """Return the faults of registered sets, each checked by itself: one with a json as one with labels."""
    skips = cfg.INPUT.ON_BAD_IMAGE == "skip"
    all_faults = []
    for name in names:
        labeled = "json_file" in MetadataCatalog.get(name).as_dict()
        options = {"labeled": labeled, "skip_bad": skips and not labeled}
        all_faults.append(check_set(name, objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS, **options)[1])
    return all_faults


def check_config(cfg: CfgNode) -> list[Faults]:
    """Check all sets that DATASETS of a configuration names, after their registration.

    Returns:
        the faults of each set, in the order TRAIN, UNLABELED, TEST, and those of all sets together.
    """
    dicts = {key: [] for key in ("TRAIN", "UNLABELED", "TEST")}
    all_faults = []
    for key, records_of_key in dicts.items():
        for name in cfg.DATASETS[key]:
            records, faults = check_set(
                name,
                labeled=key != "UNLABELED",
                skip_bad=key == "UNLABELED" and cfg.INPUT.ON_BAD_IMAGE == "skip",
                objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS,
                first=cfg.DATASETS.TRAIN[0] if key == "TRAIN" else None,
                evaluated=key == "TEST",
            )
            if key == "TEST" and not faults.of(ERROR):
                tell_classes(name, training_classes(cfg), faults)
            records_of_key += map(without_labels, records)
            del records  # The labels of two sets are not in memory at once.
            all_faults.append(faults)
    if not any(faults.of(ERROR) for faults in all_faults):
        together = Faults("all sets together")
        for sentence in tell_copies(*dicts.values()):
            together.warning(sentence)
        all_faults.append(together)
    return all_faults
