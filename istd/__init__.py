"""Point-supervised infrared small target detection (ISTD), as ordinary Detectron2 parts.

`istd.add_istd_config(cfg)` adds the configuration keys. Whoever takes that function has registered the architecture.
`istd.deploy` runs exported networks and needs no Detectron2.
"""

from d2kit import require_detectron2

__all__ = ["add_istd_config"]


def __getattr__(name: str):
    """Import Detectron2 and what is built on it when `add_istd_config` is asked for, not before."""
    if name != "add_istd_config":
        raise AttributeError(f"module 'istd' has no attribute '{name}'")
    require_detectron2("istd")
    from istd.config import add_istd_config

    return add_istd_config
