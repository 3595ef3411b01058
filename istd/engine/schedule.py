"""Epochs as iterations: an epoch passes as many images as the training set has, whatever the pool holds."""

import math

from detectron2.config import CfgNode


def epoch_iterations(cfg: CfgNode, images: int) -> int:
    """Return the iterations of one epoch of `images` training images at SOLVER.IMS_PER_BATCH."""
    return math.ceil(images / cfg.SOLVER.IMS_PER_BATCH)


def in_iterations(cfg: CfgNode, images: int) -> CfgNode:
    """Return a frozen configuration whose ISTD.SCHEDULE is turned into Detectron2's iterations.

    The function sets SOLVER.MAX_ITER, WARMUP_ITERS and CHECKPOINT_PERIOD and TEST.EVAL_PERIOD for a training set of
    `images` images, so that all schemes train equally long, though their pools differ. SCHEDULE.EPOCHS of 0 returns the
    same configuration, and SCHEDULE.EVAL of 0 means no evaluation while training.
    """
    schedule = cfg.ISTD.SCHEDULE
    if schedule.EPOCHS <= 0:
        return cfg
    epoch = epoch_iterations(cfg, images)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = epoch * schedule.EPOCHS
    cfg.SOLVER.WARMUP_ITERS = round(epoch * schedule.WARMUP)
    cfg.SOLVER.CHECKPOINT_PERIOD = epoch * schedule.CHECKPOINT
    cfg.TEST.EVAL_PERIOD = epoch * schedule.EVAL
    cfg.freeze()
    return cfg


class EpochClock:
    """Tells the hooks at which iterations an epoch ends; `epochs` is the length of the training."""

    def __init__(self, iterations: int, total: int):
        """
        Args:
            iterations: iterations of one epoch.
            total: iterations of the training.
        """
        self._iterations = iterations
        self._total = total
        self.epochs = total / iterations

    def ended(self, iteration: int) -> int:
        """Return the number of finished epochs if this iteration ends one before the training's end, else 0."""
        done = iteration + 1
        return done // self._iterations if done % self._iterations == 0 and done < self._total else 0
