"""A log of switches that have no effect in a configuration."""

import logging

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def log_idle_switches(cfg: CfgNode) -> None:
    """Log which switches wait for unlabeled images (INFO), and boundary consistency without SAM (WARNING)."""
    if len(cfg.DATASETS.UNLABELED) == 0:
        names = ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING")
        waiting = ", ".join(f"S4M.{name}" for name in names if cfg.S4M[name].ENABLED)
        if waiting:
            logger.info("%s: waiting for unlabeled images, without effect until DATASETS.UNLABELED.", waiting)
    elif cfg.S4M.BOUNDARY.ENABLED and not cfg.S4M.PR.ENABLED:
        logger.warning(
            "S4M.BOUNDARY without S4M.PR knows no certainty of SAM: its edge term is 0, and all cells weigh the same."
        )
