"""Point-supervised infrared small target detection, as Detectron2 parts."""
