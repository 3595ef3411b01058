"""Ids of COCO records become whole numbers here."""

import math
import re

from d2kit.faults import Faults

_LARGEST_ID = 2**53  # Evaluation keeps ids as doubles.


def plain_id(value: object) -> int | str | None:
    """Return an id as int if it is a whole number in any guise, else as text; None if it is none.

    For example, 7, 7.0, "7" and "7.0" are 7, "b2a1" is "b2a1", and null, NaN and a list are None. Text with leading
    zeros stays text, so that "07" and "7" are two ids.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(float(text)) if re.fullmatch(r"(0|[1-9][0-9]{0,14})(\.0+)?", text) else text
    return None


def number_records(records: list[dict], noun: str, faults: Faults) -> dict:
    """Give records whole numbers as ids, in place.

    Ids that are whole numbers in any guise keep their value. If one is not, all are counted from 1 in their order.

    Returns:
        the new id by `plain_id` of the old one.
    """
    keys = [plain_id(record.get("id")) for record in records]
    seen = set()
    for key in keys:
        if key in seen and key is not None:
            faults.error(f"{noun} ids used twice", f"{noun} id {key} is used twice")
        seen.add(key)
    anew = any(type(key) is not int or not 0 <= key < _LARGEST_ID for key in keys)
    numbers = {}
    for position, (record, key) in enumerate(zip(records, keys, strict=True), start=1):
        number = position if anew else key
        if type(record.get("id")) is not int or record["id"] != number:
            what = "that are no whole numbers, numbered anew" if anew else "written as another type, read as numbers"
            faults.repaired(f"ids of {noun} records {what}", f"the {noun} of id {record.get('id')!r} gets {number}")
        record["id"] = number
        if key is not None:
            numbers[key] = number
    return numbers


def number_annotations(annotations: list[dict], faults: Faults) -> None:
    """Give annotations ids from 1, in place: COCO's evaluation takes an object of id 0 for none."""
    keys = [plain_id(annotation.get("id")) for annotation in annotations]
    if all(type(key) is int and 0 < key < _LARGEST_ID for key in keys):
        seen = set()
        for key in keys:
            if key in seen:
                faults.error("annotation ids used twice", f"annotation id {key} is used twice")
            seen.add(key)
        for annotation, key in zip(annotations, keys, strict=True):
            annotation["id"] = key
        return
    first = next(key for key in keys if type(key) is not int or not 0 < key < _LARGEST_ID)
    faults.repaired("ids of annotations, counted anew from 1", f"one has the id {first!r}", len(keys))
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
