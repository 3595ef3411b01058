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


@pytest.mark.parametrize(
    ("batch", "processes", "unlabeled"), [(16, 1, 8), (4, 1, 2), (1, 1, 1), (32, 1, 16), (4, 4, 4), (12, 4, 8)]
)
def test_unlabeled_images_follow_the_batch(batch, processes, unlabeled, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    assert scale_schedule(written_for_sixteen(batch)).S4M.UNLABELED_BATCH == unlabeled


def test_the_scaled_schedule_is_told_with_what_is_too_long_for_it(caplog):
    cfg = written_for_sixteen(2)
    cfg.defrost()
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.DATASETS.UNLABELED = 1000, 5000, ("u",)
    with caplog.at_level("INFO", logger="s4m"):
        scale_schedule(cfg)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == (
        "The schedule for 16 images is scaled to 2 labeled and 1 unlabeled ones: 8000 iterations, a warm-up of 8000, "
        "steps at [48000, 64000], an evaluation every 40000, a rate of 0.0025."
    )
    assert [text.split(" is ")[0] for text in told[1:]] == ["SOLVER.WARMUP_ITERS", "TEST.EVAL_PERIOD"]


def test_a_schedule_that_fits_gives_no_warning(caplog):
    scale_schedule(written_for_sixteen(4))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


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
