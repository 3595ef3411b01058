"""Epochs as iterations: an epoch passes as many images as the training set has, whatever the pool holds."""

import math

from detectron2.config import CfgNode


def epoch_iterations(cfg: CfgNode, images: int) -> int:
    """Iterations of one epoch of `images` training images at SOLVER.IMS_PER_BATCH."""
    return max(1, math.ceil(images / cfg.SOLVER.IMS_PER_BATCH))


def in_iterations(cfg: CfgNode, images: int) -> CfgNode:
    """Turn ISTD.SCHEDULE into Detectron2's iterations.

    Sets SOLVER.MAX_ITER, WARMUP_ITERS and CHECKPOINT_PERIOD and TEST.EVAL_PERIOD; SCHEDULE.EVAL of 0 means no
    evaluation while training. All schemes then train equally long, though their pools differ.

    Args:
        cfg: complete.
        images: in the training set.

    Returns:
        a new frozen configuration; the same one when SCHEDULE.EPOCHS is 0.
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
    """Tells at which iterations the hooks of epochs act."""

    def __init__(self, iterations: int, total: int):
        """
        Args:
            iterations: of an epoch.
            total: iterations of the training.
        """
        self.iterations, self.total = iterations, total

    @property
    def epochs(self) -> float:
        """Length of the training."""
        return self.total / self.iterations

    def ended(self, iteration: int) -> int:
        """Number of epochs that are done if this iteration ended one and the training goes on, else 0."""
        done = iteration + 1
        return done // self.iterations if done % self.iterations == 0 and done < self.total else 0
