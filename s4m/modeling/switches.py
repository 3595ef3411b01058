"""What a configuration switches on without effect, in the log."""

import logging

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

_OF_PSEUDO_LABELS = ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING")


def log_idle_switches(cfg: CfgNode) -> None:
    """Log which switches wait for unlabelled images (INFO), and a boundary consistency without SAM (WARNING)."""
    if len(cfg.DATASETS.UNLABELED) == 0:
        waiting = [f"S4M.{name}" for name in _OF_PSEUDO_LABELS if cfg.S4M[name].ENABLED]
        if waiting:
            logger.info(
                "%s: waiting for unlabelled images, without effect until DATASETS.UNLABELED.", ", ".join(waiting)
            )
    elif cfg.S4M.BOUNDARY.ENABLED and not cfg.S4M.PR.ENABLED:
        logger.warning(
            "S4M.BOUNDARY without S4M.PR knows no certainty of SAM: its edge term is 0, and all cells weigh the same."
        )
