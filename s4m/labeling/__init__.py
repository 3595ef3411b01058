"""Whole folders of images are labeled by the network of a training run, into one COCO json; see `s4m.labeling.run`."""
