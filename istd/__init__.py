"""Point-supervised infrared small target detection (ISTD), as ordinary Detectron2 parts.

Importing the package registers its architecture; `add_istd_config(cfg)` adds its configuration keys.
"""

from d2kit import require_detectron2

require_detectron2("istd")

from istd.config import add_istd_config  # noqa: E402
from istd.data.builtin import register_scenes  # noqa: E402
from istd.modeling import point_supervised  # noqa: E402,F401  (registration)

register_scenes()

__all__ = ["add_istd_config"]
