"""A data set is described by a small yaml or json file; each package has its own table of keys."""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

BASE = "folder"  # The key with this name is the folder in which the paths of the other keys start.
PATHS = {"file": os.path.isfile, "folder": os.path.isdir, "path": os.path.exists}  # kinds of keys: what must be there
QUOTES = "in quotes where yaml takes a word for something else"


class Key(NamedTuple):
    """A key of the file.

    Attributes:
        kind: "file", "folder" or "path" (either of them), which must exist; "names", a list of text; or the tuple of
            the words to choose from.
        required: whether the file must have the key.
        may_be_empty: whether empty text, or null, is a value.
        suffix: what may be left out at the end of a path, such as ".txt".
    """

    kind: str | tuple[str, ...]
    required: bool = False
    may_be_empty: bool = False
    suffix: str = ""


def read_description(path: str | os.PathLike, keys: Mapping[str, Key]) -> dict[str, str | list[str]]:
    """Read the file that describes a data set.

    Args:
        path: yaml or json file in UTF-8 or UTF-16. Paths in it start in its own folder, or in the one that its key
            BASE names, and `~` is the home folder. Backslashes are slashes where no file has them in its name.
        keys: the keys that the file may have.

    Returns:
        the keys and values, with complete paths, and empty text for null.

    Raises:
        FileNotFoundError: what a key names does not exist; the message names the file and the key.
        ValueError: the file is neither yaml nor json, or a key is unknown, doubled, missing or of another type.
    """
    content = _parse(Path(path))
    known = ", ".join(keys)
    for key in content:
        if key not in keys:
            raise ValueError(f"'{path}' has the unknown key '{key}'; known are {known}")
    for key in (key for key, rule in keys.items() if rule.required and key not in content):
        raise ValueError(f"'{path}' lacks the key {key}; known are {known}")
    values = {key: _checked(value, keys[key], f"'{path}': {key}") for key, value in content.items()}
    folder = Path(path).absolute().parent
    for key in sorted(values, key=lambda key: key != BASE):
        if keys[key].kind in PATHS and values[key]:
            values[key] = _complete(folder, values[key], keys[key], f"'{path}': {key}")
        if key == BASE:
            folder = Path(values[key])
    return values


class _Pairs(dict):
    """An object of a json that keeps the names which it has several times."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _parse(path: Path) -> dict:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".json":
            content = json.loads(data, object_pairs_hook=_Pairs)
            names = content.names if isinstance(content, _Pairs) else []
        else:
            node = yaml.compose(data, yaml.SafeLoader)
            names = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
            content = yaml.safe_load(data)
    except FileNotFoundError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OSError, RecursionError) as error:
        raise ValueError(f"'{path}' is no yaml or json file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' describes no data set: it has no keys")
    for name, count in Counter(map(str, names)).items():
        if count > 1:
            raise ValueError(f"'{path}' has the key {name} {count} times")
    return content


def _checked(value: object, key: Key, where: str) -> str | list[str]:
    if key.kind == "names":
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            raise ValueError(f"{where} is {reprlib.repr(value)}, but must be a list of names, {QUOTES}")
        return value
    if value in ("", None) and key.may_be_empty:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {reprlib.repr(value)}, but must be text, {QUOTES}")
    if any(letter < " " for letter in value):
        raise ValueError(f"{where} is {reprlib.repr(value)}: in double quotes a backslash is written twice")
    if isinstance(key.kind, tuple) and value not in key.kind:
        raise ValueError(f"{where} is '{value}', but must be {' or '.join(key.kind)}")
    return value


def _complete(folder: Path, value: str, key: Key, where: str) -> str:
    """Return a path that starts in a folder; Windows' backslashes are slashes where nothing else exists."""
    spelled = [str(folder / os.path.expanduser(text)) for text in (value, value.replace("\\", "/"))]
    candidates = [path + suffix for path in spelled for suffix in dict.fromkeys(("", key.suffix))]
    existing = next(filter(PATHS[key.kind], candidates), None)
    if existing is None and any(map(os.path.exists, candidates)):
        raise ValueError(f"{where} '{value}' is no {key.kind}")
    if existing is None:
        raise FileNotFoundError(f"{where} '{spelled[-1]}' does not exist")
    return existing
