"""One rule scales a schedule to a batch for which it was not written."""

from detectron2.config import CfgNode


def scale_schedule(cfg: CfgNode) -> CfgNode:
    """Adapt the schedule to the batch by the linear scaling rule.

    The reference batch is B (`SOLVER.REFERENCE_BATCH`), the batch b (`SOLVER.IMS_PER_BATCH`), and k passes are
    accumulated (`SOLVER.ACCUMULATE`). The rate is multiplied by b*k/B, and every count of iterations (length, steps,
    warm-up, burn-in, periods of evaluation, checkpoints, overlays and calibration) by B/b, so that training sees as
    many images. The decays of the teacher's and the calibration's averages become decay^(b/B), so that the averages
    cover as many images. `S4M.UNLABELED_BATCH` does not change.

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
    cfg.SOLVER.REFERENCE_BATCH = 0
    cfg.freeze()
    return cfg
