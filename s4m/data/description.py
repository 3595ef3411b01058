"""A data set is described by a small yaml or json file."""

import os
from pathlib import Path

import yaml

KEYS = {
    "images": "the folder of the images",
    "json": "a json in COCO format; without it the images are unlabeled",
    "classes": "the names of the classes to use, in this order; without it all of the json",
    "evaluation": "'coco', or 'voc' for a json of prepare_voc",
}
_EVALUATIONS = ("coco", "voc")


def read_description(path: str | os.PathLike) -> dict[str, str | list[str]]:
    """Read the file that describes a data set.

    Args:
        path: yaml or json file with the keys of KEYS. Paths in it start in its own folder, and `~` is the home folder.

    Returns:
        the keys and values, with complete paths.

    Raises:
        ValueError: the file is neither yaml nor json, or a key is unknown, missing or of another type.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"'{path}' is no yaml or json file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' describes no data set: it needs the key images")
    known = ", ".join(KEYS)
    for key, value in content.items():
        if key not in KEYS:
            raise ValueError(f"'{path}' has the unknown key '{key}'; known are {known}")
        if key == "classes":
            if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
                raise ValueError(f"'{path}': classes is {value!r}, but must be a list of names")
        elif not isinstance(value, str) or not value:
            raise ValueError(f"'{path}': {key} is {value!r}, but must be text")
    if "images" not in content:
        raise ValueError(f"'{path}' lacks the key images; known are {known}")
    if content.get("evaluation", "coco") not in _EVALUATIONS:
        raise ValueError(f"'{path}': evaluation is '{content['evaluation']}', but must be {' or '.join(_EVALUATIONS)}")
    folder = Path(path).absolute().parent
    return {key: _complete(folder, value) if key in ("images", "json") else value for key, value in content.items()}


def _complete(folder: Path, value: str) -> str:
    """Return a path that starts in a folder; Windows' backslashes are slashes where nothing else exists."""
    complete = folder / os.path.expanduser(value)
    return str(complete if complete.exists() else folder / os.path.expanduser(value.replace("\\", "/")))
