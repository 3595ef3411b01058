"""One rule scales a schedule to a batch for which it was not written."""

import logging

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def scale_schedule(cfg: CfgNode) -> CfgNode:
    """Adapt the schedule to the batch by the linear scaling rule.

    The reference batch is B (`SOLVER.REFERENCE_BATCH`), the batch b (`SOLVER.IMS_PER_BATCH`), and k passes are
    accumulated (`SOLVER.ACCUMULATE`). The rate is multiplied by b*k/B, and every count of iterations (length, steps,
    warm-up, burn-in, periods of evaluation, checkpoints, overlays and calibration) by B/b, so that training sees as
    many images. The decays of the teacher's and the calibration's averages become decay^(b/B), so that the averages
    cover as many images. `S4M.UNLABELED_BATCH` is multiplied by b/B, to a multiple of the number of processes.

    One line of the log says what becomes of the schedule, and a warning names a warm-up or a period of evaluation that
    the training is too short for.

    Returns:
        a new frozen configuration with REFERENCE_BATCH 0, or `cfg` itself if its REFERENCE_BATCH is 0.
    """
    reference = cfg.SOLVER.REFERENCE_BATCH
    if reference == 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    factor = reference / cfg.SOLVER.IMS_PER_BATCH
    cfg.SOLVER.BASE_LR *= cfg.SOLVER.ACCUMULATE / factor

    def scaled(count: int) -> int:
        return max(1, round(count * factor)) if count else 0  # The count 0 switches off, so no other becomes 0.

    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        cfg.SOLVER[key] = scaled(cfg.SOLVER[key])
    cfg.SOLVER.STEPS = tuple(scaled(step) for step in cfg.SOLVER.STEPS)
    cfg.TEST.EVAL_PERIOD = scaled(cfg.TEST.EVAL_PERIOD)
    cfg.S4M.LOG_PERIOD = scaled(cfg.S4M.LOG_PERIOD)
    cfg.S4M.TEACHER.BURN_IN = scaled(cfg.S4M.TEACHER.BURN_IN)
    cfg.S4M.TEACHER.EMA_DECAY **= 1 / factor
    cfg.S4M.CALIBRATION.PERIOD = scaled(cfg.S4M.CALIBRATION.PERIOD)
    cfg.S4M.CALIBRATION.DECAY **= 1 / factor
    processes = comm.get_world_size()
    cfg.S4M.UNLABELED_BATCH = processes * max(1, round(cfg.S4M.UNLABELED_BATCH / factor / processes))
    cfg.SOLVER.REFERENCE_BATCH = 0
    cfg.freeze()
    _tell(cfg, reference)
    return cfg


def _tell(cfg: CfgNode, reference: int) -> None:
    solver, period = cfg.SOLVER, cfg.TEST.EVAL_PERIOD
    logger.info(
        "The schedule for %d images is scaled to %d labeled and %d unlabeled ones: %d iterations, a warm-up of %d, "
        "steps at %s, an evaluation every %d, a rate of %g.",
        reference,
        solver.IMS_PER_BATCH,
        cfg.S4M.UNLABELED_BATCH if cfg.DATASETS.UNLABELED else 0,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
        list(solver.STEPS),
        period,
        solver.BASE_LR,
    )
    for key, count in (("SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS), ("TEST.EVAL_PERIOD", period)):
        if count >= solver.MAX_ITER > 1:
            logger.warning(
                "%s is %d after scaling, and the training ends after %d iterations: set it, or set "
                "SOLVER.REFERENCE_BATCH 0 to take all numbers as they are.",
                key,
                count,
                solver.MAX_ITER,
            )
