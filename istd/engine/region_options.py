"""The options of region growing for a run: what its training images and some true masks tell."""

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from istd.data.images import BadImageError, read_infrared, read_mask
from istd.data.polarity import orient
from istd.pseudo_masks.initialize import target_scale
from istd.pseudo_masks.regions import fit_gain, window_noise

logger = logging.getLogger(__name__)


def region_options(cfg: CfgNode, records: Sequence[dict]) -> dict:
    """Return the options of `grow_mask` for a run.

    The noise is the median over all points of the training images. The gain is ISTD.LABELS.GAIN, or fitted to the true
    masks of ISTD.LABELS.CALIBRATE images, which are spread evenly over those that have points and a mask.

    Args:
        cfg: configuration with ISTD.LABELS and ISTD.INPUT.
        records: dataset dicts of the training images, with points.

    Returns:
        "noise" in gray values, "gain", "polarity" and "scale".

    Raises:
        ValueError: fewer images than CALIBRATE have points and a mask.
    """
    node = cfg.ISTD.LABELS
    polarity = "both" if cfg.ISTD.INPUT.POLARITY == "both" else "bright"  # Dark targets are bright in what is read.
    scale = target_scale(node.TARGET_SIZE)
    with_points = [record for record in records if record["points"]]
    noises = [_noise(cfg, record, scale) for record in with_points]
    noise = float(np.median(np.concatenate(noises))) if noises else 0.0
    gain = node.GAIN
    if node.CALIBRATE:
        masked = [record for record in with_points if "mask_file" in record]
        if len(masked) < node.CALIBRATE:
            raise ValueError(
                f"ISTD.LABELS.CALIBRATE is {node.CALIBRATE}, but only {len(masked)} training images with points have "
                "a mask."
            )
        chosen = [masked[i] for i in np.linspace(0, len(masked) - 1, node.CALIBRATE).round().astype(int)]
        samples = ((_read(cfg, r), r["points"], read_mask(r["mask_file"])) for r in chosen)
        gain = fit_gain(samples, noise, polarity, scale)
    logger.info("Regions grow with a noise of %.3g gray values and a gain of %.3g.", noise, gain)
    return {"noise": noise, "gain": gain, "polarity": polarity, "scale": scale}


def _read(cfg: CfgNode, record: dict) -> np.ndarray:
    return orient(read_infrared(record["file_name"], cfg.ISTD.INPUT.RANGE), cfg.ISTD.INPUT.POLARITY)


def _noise(cfg: CfgNode, record: dict, scale: float) -> np.ndarray:
    try:
        return window_noise(_read(cfg, record), record["points"], scale)
    except BadImageError:
        raise
    except ValueError as error:
        raise ValueError(f"{record['file_name']}: {error}") from error
