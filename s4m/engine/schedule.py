"""One rule for batches other than the one a schedule was written for."""

from detectron2.config import CfgNode

_ITERATIONS = ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD")


def scale_schedule(cfg: CfgNode) -> CfgNode:
    """Adapt the schedule to the batch by the linear scaling rule.

    With reference batch B (`SOLVER.REFERENCE_BATCH`), batch b (`SOLVER.IMS_PER_BATCH`) and k accumulated passes
    (`SOLVER.ACCUMULATE`): the rate is multiplied by b*k/B, and every count of iterations (length, steps, warm-up,
    burn-in, periods of evaluation, checkpoints, overlays and calibration) by B/b, so that the same images are seen.
    What decays by iteration (the teacher's and the calibration's averages) keeps its length in images: decay^(b/B).
    `S4M.UNLABELED_BATCH` is yours to set.

    Returns:
        a new frozen configuration with REFERENCE_BATCH 0; the given one when REFERENCE_BATCH is 0 already.
    """
    reference = cfg.SOLVER.REFERENCE_BATCH
    if reference == 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    longer = reference / cfg.SOLVER.IMS_PER_BATCH
    cfg.SOLVER.BASE_LR *= cfg.SOLVER.ACCUMULATE / longer

    def scaled(count: int) -> int:
        return max(1, round(count * longer)) if count else 0  # 0 switches things off, and nothing else may

    for key in _ITERATIONS:
        cfg.SOLVER[key] = scaled(cfg.SOLVER[key])
    cfg.SOLVER.STEPS = tuple(scaled(step) for step in cfg.SOLVER.STEPS)
    cfg.S4M.TEACHER.BURN_IN = scaled(cfg.S4M.TEACHER.BURN_IN)
    cfg.TEST.EVAL_PERIOD = scaled(cfg.TEST.EVAL_PERIOD)
    s4m = cfg.S4M
    s4m.TEACHER.EMA_DECAY, s4m.CALIBRATION.DECAY = (
        x ** (1 / longer) for x in (s4m.TEACHER.EMA_DECAY, s4m.CALIBRATION.DECAY)
    )
    s4m.LOG_PERIOD, s4m.CALIBRATION.PERIOD = scaled(s4m.LOG_PERIOD), scaled(s4m.CALIBRATION.PERIOD)
    cfg.SOLVER.REFERENCE_BATCH = 0
    cfg.freeze()
    return cfg
