"""A check that images are normalized as networks with weights of timm or of the hub expect."""

from detectron2.config import CfgNode

_LEAST_STD = 10.0  # 8-bit images have larger deviations; Detectron2's own default of 1.0 leaves them unscaled.


def require_imagenet_rgb(cfg: CfgNode, user: str) -> None:
    """Refuse a configuration that clearly does not normalize RGB images by ImageNet's statistics.

    Means and deviations of other RGB data pass. `user` is the key or function that needs this, for the message.

    Raises:
        ValueError: the format is not RGB, the means are ImageNet's in the order BGR, or a deviation is below 10.
    """
    mean = cfg.MODEL.PIXEL_MEAN
    std = cfg.MODEL.PIXEL_STD
    reversed_mean = all(abs(a - b) < 0.5 for a, b in zip(mean, (103.53, 116.28, 123.675), strict=True))
    if cfg.INPUT.FORMAT != "RGB" or reversed_mean or min(std) < _LEAST_STD:
        raise ValueError(
            f"{user} needs INPUT.FORMAT RGB, with MODEL.PIXEL_MEAN [123.675, 116.28, 103.53] and PIXEL_STD [58.395, "
            f"57.12, 57.375] of ImageNet, not {cfg.INPUT.FORMAT}, {list(mean)} and {list(std)}."
        )
