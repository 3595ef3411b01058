"""Functions that find shipped configuration files and compose several files into one configuration."""

import os
import re
from collections.abc import Callable, Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg


def config_folder() -> Path:
    """Return the folder of the shipped configurations, in a checkout or in an installed package."""
    return Path(str(resources.files("d2kit") / "configs"))


def find_config(name: str | os.PathLike) -> str:
    """Return the path of a configuration file: the given file if it exists, else the shipped file of that name.

    Args:
        name: a path, or a name below the shipped folder such as "s4m/coco/R50-FPN_5pct_stage2.yaml". A leading
            "configs/" is accepted, so that the commands of the documentation work from any directory.

    Raises:
        FileNotFoundError: neither file exists.
    """
    path = Path(name)
    if path.is_file():
        return str(path)
    shipped = config_folder() / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
    if shipped.is_file():
        return str(shipped)
    raise FileNotFoundError(f"the configuration file '{name}' does not exist, neither here nor among the shipped ones.")


def compose_config(
    files: Sequence[str | os.PathLike], options: Sequence[str] = (), add_keys: Sequence[Callable[[CfgNode], None]] = ()
) -> CfgNode:
    """Compose one configuration from several files, merged in order, and from options, merged last.

    Args:
        files: names for `find_config`; a later file overrides an earlier one. Each file may name its `_BASE_`.
        options: pairs of KEY and VALUE in one flat sequence.
        add_keys: functions such as `add_s4m_config` that add keys to Detectron2's.

    Returns:
        the complete configuration, not frozen.

    Raises:
        FileNotFoundError: a file does not exist.
        KeyError: a file or an option names an unknown key, or an option has no value.
        ValueError: a value has another type than its key; an integer may stand for a float.
    """
    cfg = get_cfg()
    for add in add_keys:
        add(cfg)
    if len(options) % 2:
        raise KeyError(f"the option {options[-1]} has no value")
    try:
        for file in files:
            _merge_file(cfg, find_config(file))
        cfg.merge_from_list(_with_floats(cfg, options))
    except AssertionError as error:  # yacs reports unknown keys by assertions.
        raise KeyError(str(error)) from error
    except ValueError as error:
        raise ValueError(_type_sentence(str(error))) from error
    return cfg


def _merge_file(cfg: CfgNode, file: str) -> None:
    values = CfgNode.load_yaml_with_base(file, allow_unsafe=False)
    if values.get("VERSION", cfg.VERSION) == cfg.VERSION:
        cfg.merge_from_other_cfg(CfgNode(_integers_as_floats(cfg, values)))
    else:
        cfg.merge_from_file(file, allow_unsafe=False)  # It converts older versions.


def _integers_as_floats(node: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return nested values in which an integer is a float where the configuration holds one."""
    result = {}
    for key, value in values.items():
        present = node.get(key) if isinstance(node, CfgNode) else None
        if isinstance(value, dict):
            result[key] = _integers_as_floats(present, value)
        else:
            result[key] = float(value) if isinstance(present, float) and type(value) is int else value
    return result


def _with_floats(cfg: CfgNode, options: Sequence[str]) -> list[str]:
    """Return the options, with an integer such as "1" as "1.0" where the configuration holds a float."""
    options = [str(option) for option in options]
    for place in range(1, len(options), 2):
        present = reduce(lambda node, name: getattr(node, name, None), options[place - 1].split("."), cfg)
        if isinstance(present, float) and re.fullmatch(r"[+-]?\d+", options[place]):
            options[place] += ".0"
    return options


def _type_sentence(message: str) -> str:
    """Return yacs' message about types as a sentence that begins with the key; another message is returned as it is."""
    types = r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\)"
    match = re.fullmatch(types + r" with values \((.*) vs\. (.*)\) for config key: (.*)", message, re.DOTALL)
    if not match:
        return message
    wanted, given, default, value, key = match.groups()
    hint = f"; one name needs a comma behind it: ('{value}',)" if (wanted, given) == ("tuple", "str") else ""
    return f"{key} must be of the type {wanted}, such as {default}, not {value} of the type {given}{hint}."


def named_architecture(files: Sequence[str | os.PathLike], options: Sequence[str] = ()) -> str:
    """Return MODEL.META_ARCHITECTURE of the files and options, whichever package's keys they name, or ""."""
    name = ""
    for file in files:
        values = CfgNode.load_yaml_with_base(find_config(file))
        name = values.get("MODEL", {}).get("META_ARCHITECTURE", name)
    return dict(zip(options[::2], options[1::2], strict=False)).get("MODEL.META_ARCHITECTURE", name)
