"""Networks and meta-architectures; importing this registers them."""

from s4m.modeling.rcnn import S4MRCNN
from s4m.modeling.roi_heads import PseudoLabelROIHeads, PseudoLabelRPN
from s4m.modeling.teacher_student import TeacherStudent

__all__ = ["PseudoLabelROIHeads", "PseudoLabelRPN", "S4MRCNN", "TeacherStudent"]
