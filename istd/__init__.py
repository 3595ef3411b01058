"""Point-supervised infrared small target detection (ISTD), as ordinary Detectron2 parts.

Importing the package registers its architecture; `add_istd_config(cfg)` adds its configuration keys.
"""

from d2kit import __version__, require_detectron2

require_detectron2("istd")

from istd.config import add_istd_config  # noqa: E402
from istd.data.builtin import register_scenes  # noqa: E402
from istd.modeling import point_supervised  # noqa: E402,F401  (registration)

register_scenes()

__all__ = ["__version__", "add_istd_config", "get_config_file"]


def get_config_file(name: str) -> str:
    """The path of a shipped configuration, for example "networks/alcnet.yaml"; see `d2kit.config_files`."""
    from d2kit.config_files import find_config

    return find_config(f"istd/{name}")
