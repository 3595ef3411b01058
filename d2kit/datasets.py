"""A configuration may name a data set by its path; the data set is then registered under this name.

Each package has its own forms of such names, for example "coco:JSON:IMAGES".
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog


class Form(NamedTuple):
    """One way to name data sets by their path.

    Attributes:
        text: the form as messages show it.
        pattern: the regular expression that the whole name matches.
        register: a function (name, *groups of the pattern) that registers the data set.
    """

    text: str
    pattern: str
    register: Callable[..., None]


def locate(path: str, name: str) -> str:
    """Return the path if it exists, else the same path in the folder of the environment variable DETECTRON2_DATASETS.

    Args:
        path: the path of a file or a folder; only a relative path is looked up in that folder.
        name: the name of the data set, for the message.

    Raises:
        FileNotFoundError: neither path exists.
    """
    path = os.path.expanduser(path)
    folder = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", ""))
    candidates = [path] if os.path.isabs(path) or not folder else [path, os.path.join(folder, path)]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    raise FileNotFoundError(f"data set '{name}': {' and '.join(candidates)} does not exist.")


def resolve(names: Iterable[str], forms: Sequence[Form]) -> tuple[str, ...]:
    """Register the names that have one of the forms; names that are already registered stay as they are.

    Returns:
        the names, all of which are registered.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a name is not registered and has none of the forms.
    """
    names = tuple(names)
    for name in names:
        if name not in DatasetCatalog:
            _register(name, forms)
    return names


def _register(name: str, forms: Sequence[Form]) -> None:
    for form in forms:
        match = re.fullmatch(form.pattern, name)
        if match:
            return form.register(name, *match.groups())
    known = ", ".join(f"'{form.text}'" for form in forms)
    raise ValueError(f"data set '{name}' is not registered; name a registered one, or one by its path: {known}.")


@contextlib.contextmanager
def errors_name(key: str) -> Iterator[None]:
    """Put a configuration key before the message of each FileNotFoundError and ValueError of the block."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        error_class = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise error_class(f"{key}: {error}") from error


def resolve_config(cfg: CfgNode, keys: Iterable[str], forms: Sequence[Form]) -> None:
    """Register the data sets that a configuration names; errors name the key.

    Args:
        cfg: the configuration, which does not change.
        keys: the keys below DATASETS, for example TRAIN.
        forms: the forms of the package that trains.
    """
    for key in keys:
        with errors_name(f"DATASETS.{key}"):
            resolve(cfg.DATASETS[key], forms)
