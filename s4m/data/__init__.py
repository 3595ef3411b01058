"""Data sets, splits and loaders; importing this registers the built-in data sets."""

from s4m.data.builtin import register_cityscapes, register_coco_2017, register_shapes, register_voc_2012

register_coco_2017()
register_voc_2012()
register_cityscapes()
register_shapes()
