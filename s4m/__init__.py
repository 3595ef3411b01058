"""Semi-supervised instance segmentation with SAM (S4M), as ordinary Detectron2 parts.

`from s4m import add_s4m_config` registers the architectures and data sets; `add_s4m_config(cfg)` adds the configuration
keys. The package alone imports nothing heavy, so that the command `s4m` answers at once.
"""

from d2kit import __version__, require_detectron2

__all__ = ["__version__", "add_s4m_config", "get_config_file"]


def get_config_file(name: str) -> str:
    """The path of a shipped configuration, for example "coco/R50-FPN_5pct_stage2.yaml"; see `d2kit.config_files`."""
    from d2kit.config_files import find_config

    return find_config(f"s4m/{name}")


def __getattr__(name: str):
    if name != "add_s4m_config":
        raise AttributeError(f"module 's4m' has no attribute '{name}'")
    require_detectron2("s4m")
    from s4m import data, modeling  # noqa: F401  (registration)
    from s4m.config import add_s4m_config

    return add_s4m_config
