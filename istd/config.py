"""Configuration keys of ISTD, beside Detectron2's own."""

from detectron2.config import CfgNode as CN


def add_istd_config(cfg: CN) -> None:
    """Add the keys of ISTD to a Detectron2 configuration, in place; published values where they fit."""
    cfg.ISTD = CN()

    cfg.ISTD.INPUT = CN()
    cfg.ISTD.INPUT.CHANNELS = 3  # 1 or 3: the grey image, repeated
    cfg.ISTD.INPUT.MEAN = 95.010  # grey values, 0..255; of the published SIRST3 networks
    cfg.ISTD.INPUT.STD = 41.511
    cfg.ISTD.INPUT.DEPTH = "range"  # 16-bit files: "range" (the image's own minimum..maximum) or "type" (0..65535)
    cfg.ISTD.INPUT.CROP = 256  # side of the square training crop, pixels
    cfg.ISTD.INPUT.TARGET_CROP = 0.5  # share of the crops that surely hold a target, where the image has one
    cfg.ISTD.INPUT.AUGMENT = True  # flips and quarter turns of the training crop
