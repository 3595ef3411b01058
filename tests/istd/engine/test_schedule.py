"""Epochs as iterations."""

import pytest

from istd.engine.schedule import EpochClock, epoch_iterations, in_iterations


def test_epochs_become_iterations(istd_cfg):
    cfg = istd_cfg(SOLVER__IMS_PER_BATCH=16, ISTD__SCHEDULE__EPOCHS=300, ISTD__SCHEDULE__WARMUP=3)
    found = in_iterations(cfg, 213)
    assert epoch_iterations(cfg, 213) == 14
    assert (found.SOLVER.MAX_ITER, found.SOLVER.WARMUP_ITERS) == (4200, 42)
    assert (found.TEST.EVAL_PERIOD, found.SOLVER.CHECKPOINT_PERIOD) == (14, 14)


def test_without_epochs_the_iterations_stay(istd_cfg):
    cfg = istd_cfg(ISTD__SCHEDULE__EPOCHS=0, SOLVER__MAX_ITER=7)
    assert in_iterations(cfg, 213) is cfg


@pytest.mark.parametrize(("iteration", "epoch"), [(0, 0), (2, 0), (3, 1), (4, 0), (7, 2), (11, 0), (12, 0)])
def test_clock(iteration, epoch):
    clock = EpochClock(4, 12)
    assert clock.ended(iteration) == epoch  # the last epoch's end is the training's: nothing follows
    assert clock.epochs == 3


def test_one_image_is_an_epoch_of_one_iteration(istd_cfg):
    assert epoch_iterations(istd_cfg(), 1) == 1
