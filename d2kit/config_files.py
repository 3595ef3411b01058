"""Configuration files: finding those that the package ships, and composing several into one configuration."""

import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from detectron2.config import CfgNode, get_cfg


def config_folder() -> Path:
    """The folder of the shipped configurations, in a checkout and in an installed package alike."""
    return Path(str(resources.files("d2kit") / "configs"))


def find_config(name: str | os.PathLike) -> str:
    """The path of a configuration file: the file itself if it exists, else the shipped one of that name.

    Args:
        name: a path, or a name below the shipped folder such as "s4m/coco/R50-FPN_5pct_stage2.yaml". A leading
            "configs/" is accepted, so that the commands of the documentation work from any directory.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return str(path)
    shipped = config_folder() / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
    if shipped.is_file():
        return str(shipped)
    raise FileNotFoundError(f"the configuration file '{name}' does not exist, neither here nor among the shipped ones")


def compose_config(
    files: Sequence[str | os.PathLike], options: Sequence[str] = (), add_keys: Sequence[Callable[[CfgNode], None]] = ()
) -> CfgNode:
    """One configuration of several files, merged in order, with options on top.

    Args:
        files: as `find_config` takes them; a later file overrides an earlier one. Each may name its `_BASE_`.
        options: KEY VALUE pairs, merged last.
        add_keys: functions such as `add_s4m_config` that add keys to Detectron2's.

    Returns:
        the complete configuration, not frozen.

    Raises:
        FileNotFoundError: a file does not exist.
        KeyError: a file or an option names an unknown key.
    """
    cfg = get_cfg()
    for add in add_keys:
        add(cfg)
    for file in files:
        cfg.merge_from_file(find_config(file), allow_unsafe=False)
    cfg.merge_from_list(list(options))
    return cfg
