"""Semi-supervised instance segmentation with SAM, as Detectron2 parts."""
