"""Functions that find shipped configuration files and compose several files into one configuration."""

import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

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
    """
    cfg = get_cfg()
    for add in add_keys:
        add(cfg)
    for file in files:
        cfg.merge_from_file(find_config(file), allow_unsafe=False)
    try:
        cfg.merge_from_list(list(options))
    except AssertionError as error:  # yacs reports unknown keys by assertions.
        raise KeyError(str(error)) from error
    return cfg


def named_architecture(files: Sequence[str | os.PathLike], options: Sequence[str] = ()) -> str:
    """Return MODEL.META_ARCHITECTURE of the files and options, whichever package's keys they name, or ""."""
    name = ""
    for file in files:
        values = CfgNode.load_yaml_with_base(find_config(file))
        name = values.get("MODEL", {}).get("META_ARCHITECTURE", name)
    return dict(zip(options[::2], options[1::2], strict=False)).get("MODEL.META_ARCHITECTURE", name)
