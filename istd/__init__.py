"""Point-supervised infrared small target detection (ISTD), as ordinary Detectron2 parts.

Importing the package alone imports nothing heavy, so that the command `istd` and deployed networks start at once.
"""

from d2kit import __version__, require_detectron2

__all__ = ["__version__", "add_istd_config", "get_config_file"]


def add_istd_config(cfg) -> None:
    """Register ISTD's architecture and data sets, and add its keys to a Detectron2 configuration, in place.

    The keys, their defaults and their meanings are in `istd.config`. Calling again is fine.

    Raises:
        ImportError: Detectron2 is missing or too old.
    """
    require_detectron2("istd")
    from istd import config
    from istd.data import builtin
    from istd.modeling import point_supervised  # noqa: F401  (registration)

    builtin.register_scenes()
    config.add_istd_config(cfg)


def get_config_file(name: str) -> str:
    """The path of a shipped configuration, for example "networks/alcnet.yaml"; see `d2kit.config_files`."""
    from d2kit.config_files import find_config

    return find_config(f"istd/{name}")
