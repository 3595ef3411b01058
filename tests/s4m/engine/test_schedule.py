"""The scaling rule for other batches, by hand."""

import pytest
from detectron2.config import get_cfg

from s4m import add_s4m_config
from s4m.engine.schedule import scale_schedule


def written_for_sixteen(batch, accumulate=1):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.SOLVER.REFERENCE_BATCH, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE = 16, batch, accumulate
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 0.02, 9000, (6000, 8000)
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 1000, 500, 250
    cfg.S4M.TEACHER.BURN_IN = 100
    cfg.freeze()
    return cfg


def figures(cfg):
    solver = cfg.SOLVER
    counts = solver.MAX_ITER, *solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD
    return (*counts, cfg.S4M.TEACHER.BURN_IN)


@pytest.mark.parametrize(
    ("batch", "accumulate", "rate", "longer"),
    [(16, 1, 0.02, 1), (4, 1, 0.005, 4), (4, 4, 0.02, 4), (2, 4, 0.01, 8), (32, 1, 0.04, 0.5), (12, 1, 0.015, 4 / 3)],
)
def test_rate_and_counts(batch, accumulate, rate, longer):
    before = written_for_sixteen(batch, accumulate)
    scaled = scale_schedule(before)
    assert pytest.approx(scaled.SOLVER.BASE_LR) == rate
    assert figures(scaled) == tuple(round(count * longer) for count in figures(before))
    assert scaled.SOLVER.REFERENCE_BATCH == 0 and scaled.is_frozen()
    assert before.SOLVER.BASE_LR == 0.02 and before.SOLVER.MAX_ITER == 9000


@pytest.mark.parametrize(("batch", "accumulate"), [(16, 1), (2, 1), (2, 8), (32, 1)])
def test_averages_keep_their_length_in_images(batch, accumulate):
    before = written_for_sixteen(batch, accumulate)
    scaled, longer = scale_schedule(before).S4M, 16 / batch
    assert scaled.TEACHER.EMA_DECAY**longer == pytest.approx(before.S4M.TEACHER.EMA_DECAY)
    assert scaled.CALIBRATION.DECAY**longer == pytest.approx(before.S4M.CALIBRATION.DECAY)
    periods = [scaled.LOG_PERIOD, scaled.CALIBRATION.PERIOD]
    assert periods == [200 * longer, 10 * longer]


def test_once_is_enough():
    scaled = scale_schedule(written_for_sixteen(4))
    assert scale_schedule(scaled) is scaled


def test_what_is_off_stays_off_and_nothing_else_becomes_off():
    cfg = written_for_sixteen(64)
    cfg.defrost()
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.WARMUP_ITERS, cfg.S4M.TEACHER.BURN_IN, cfg.SOLVER.CHECKPOINT_PERIOD = 0, 0, 0, 1
    scaled = scale_schedule(cfg)
    assert (scaled.TEST.EVAL_PERIOD, scaled.SOLVER.WARMUP_ITERS, scaled.S4M.TEACHER.BURN_IN) == (0, 0, 0)
    assert scaled.SOLVER.CHECKPOINT_PERIOD == 1
