"""Networks and meta-architectures; importing this registers them."""

from s4m.modeling.mask2former import S4MMask2Former
from s4m.modeling.rcnn import S4MRCNN
from s4m.modeling.roi_heads import PseudoLabelROIHeads
from s4m.modeling.rpn import PseudoLabelRPN
from s4m.modeling.teacher_student import TeacherStudent
from s4m.modeling.vit_backbone import build_timm_backbone, build_vit_backbone

__all__ = [
    "PseudoLabelROIHeads",
    "PseudoLabelRPN",
    "S4MMask2Former",
    "S4MRCNN",
    "TeacherStudent",
    "build_timm_backbone",
    "build_vit_backbone",
]
