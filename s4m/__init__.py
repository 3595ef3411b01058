"""Semi-supervised instance segmentation with SAM (S4M), as ordinary Detectron2 parts.

Importing the package alone imports nothing heavy, so that the command `s4m` answers at once.
"""

from d2kit import __version__, require_detectron2

__all__ = ["__version__", "add_s4m_config", "get_config_file"]


def add_s4m_config(cfg) -> None:
    """Register S4M's architectures and data sets, and add its keys to a Detectron2 configuration, in place.

    The keys, their defaults and their meanings are in `s4m.config`. Calling again is fine.

    Raises:
        ImportError: Detectron2 is missing or too old.
    """
    require_detectron2("s4m")
    from s4m import config, modeling  # noqa: F401  (the import of modeling registers the architectures)
    from s4m.data import builtin

    builtin.register_coco_2017()
    builtin.register_voc_2012()
    builtin.register_cityscapes()
    builtin.register_shapes()
    config.add_s4m_config(cfg)


def get_config_file(name: str) -> str:
    """The path of a shipped configuration, for example "coco/R50-FPN_5pct_stage2.yaml"; see `d2kit.config_files`."""
    from d2kit.config_files import find_config

    return find_config(f"s4m/{name}")
