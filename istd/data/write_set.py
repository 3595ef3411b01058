"""A data set is written as it is read: a file that describes it, with its images and repaired points as tables."""

import csv
import io
import json
import os
from pathlib import Path

import yaml

from d2kit.faults import Faults
from d2kit.files import atomic_write
from istd.data.sirst_folder import CHARACTERISTICS, SirstFolder


def write_set(path: str | os.PathLike, folder: SirstFolder) -> list[Path]:
    """Write what `folder` reads as a file that describes a data set; images and masks stay where they are.

    Args:
        path: new file NAME.yaml, .yml or .json. Beside it, NAME_split.txt gets the names of the images, and
            NAME_points.csv their points, if there are any.
        folder: the data set, without errors.

    Returns:
        the files.

    Raises:
        FileExistsError: one of them exists.
        ValueError: the name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path} must end in .yaml, .yml or .json.")
    records = folder.read(Faults())
    names = [Path(record["file_name"]).relative_to(folder.images).as_posix() for record in records]
    split, points = (path.with_name(f"{path.stem}_{end}") for end in ("split.txt", "points.csv"))
    characteristics = folder.root / (folder.characteristics or CHARACTERISTICS)
    keys = {
        "split": split.name,
        "images": os.path.abspath(folder.images),
        "masks": os.path.abspath(folder.masks) if folder.masks else "",
        "points": "",
    }
    if characteristics.is_file():
        keys["characteristics"] = os.path.abspath(characteristics)
    contents = {split: "".join(f"{name}\n" for name in names)}
    if any("points" in record for record in records):
        keys["points"] = points.name
        rows = [
            (name, *point)
            for name, record in zip(names, records, strict=True)
            for point in record["points"] or [("", "")]
        ]
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("image", "x", "y"), *rows])
        contents[points] = table.getvalue()
    is_json = path.suffix.lower() == ".json"
    contents[path] = (
        json.dumps(keys, indent=1) if is_json else yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    )
    for file in filter(Path.exists, contents):
        raise FileExistsError(f"{file} exists: choose another name.")
    for file, content in contents.items():
        with atomic_write(file, "w") as stream:
            stream.write(content)
    return list(contents)
