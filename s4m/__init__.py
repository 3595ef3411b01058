"""Semi-supervised instance segmentation with SAM (S4M), as ordinary Detectron2 parts.

Importing the package registers its architectures and data sets; `add_s4m_config(cfg)` adds its configuration keys.
"""

from d2kit import require_detectron2

require_detectron2("s4m")

from s4m import modeling  # noqa: E402,F401  (registration)
from s4m.config import add_s4m_config  # noqa: E402
from s4m.data.builtin import register_cityscapes, register_coco_2017, register_shapes, register_voc_2012  # noqa: E402

register_coco_2017()
register_voc_2012()
register_cityscapes()
register_shapes()

__all__ = ["add_s4m_config"]
