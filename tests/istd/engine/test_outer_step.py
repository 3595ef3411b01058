"""The outer step of a small model."""

import copy
from types import SimpleNamespace

import pytest
import torch

from istd.engine.data import TrainingData
from istd.engine.hooks import OuterStep
from istd.engine.schedule import EpochClock
from istd.modeling.point_supervised import PointSupervisedISTD


@pytest.fixture
def make(istd_cfg, tmp_path):
    def hook(**more):
        cfg = istd_cfg(OUTPUT_DIR=str(tmp_path), **more)
        data = TrainingData(cfg)
        data.labels.start()
        torch.manual_seed(0)
        model = PointSupervisedISTD(cfg).train()
        return OuterStep(cfg, model, data, EpochClock(2, 8)), model

    return hook


def first_batches(hook):
    return [next(iter(loader)) for loader in hook._loaders]


def test_student_and_alpha_learn_but_scam_does_not(make):
    hook, model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train, validation = first_batches(hook)
    figures = hook.step(train, validation, eta=1e-3)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network"}
    assert not any("running" in name for name in changed)
    assert model.alpha.abs().sum() > 0
    assert 0 <= figures["outer/implicit_share_theta"] < 0.05
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_unweighted_outer_loss_moves_alpha_by_the_implicit_term_alone(make):
    hook, model = make(ISTD__OUTER__LOSS="unweighted")
    figures = hook.step(*first_batches(hook), eta=1e-3)
    assert figures["outer/implicit_share_alpha"] == 1.0
    assert model.alpha.abs().sum() > 0


def test_state_continues(make):
    hook, model = make()
    trainer = SimpleNamespace(
        iter=1,
        optimizer=SimpleNamespace(param_groups=[{"lr": 1e-3}]),
        storage=SimpleNamespace(put_scalars=lambda **_: None),
    )
    hook.trainer = trainer
    hook.after_step()
    state = copy.deepcopy(hook.state_dict())
    assert state["done"] == 2
    other, twin = make()
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    batches = first_batches(hook)
    for one in (hook, other):
        torch.manual_seed(3)
        one.step(*batches, eta=1e-3)
    assert torch.equal(model.alpha, twin.alpha)
    for one, two in zip(model.network.parameters(), twin.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_it_acts_at_its_epochs_only(make, monkeypatch):
    hook, _ = make(ISTD__OUTER__PERIOD=2)
    calls = []
    monkeypatch.setattr(hook, "step", lambda *_: calls.append(hook.trainer.iter) or {})
    for iteration in range(8):
        hook.trainer = SimpleNamespace(
            iter=iteration,
            optimizer=SimpleNamespace(param_groups=[{"lr": 1e-3}]),
            storage=SimpleNamespace(put_scalars=lambda **_: None),
        )
        hook.after_step()
    assert calls == [3, 3]  # two steps after the second epoch; the fourth ends the training


def test_a_checkpoint_of_other_clusters_is_refused(make):
    hook, _ = make()
    state = {**hook.state_dict(), "alpha": torch.zeros(99)}
    with pytest.raises(ValueError, match="99 clusters"):
        hook.load_state_dict(state)
