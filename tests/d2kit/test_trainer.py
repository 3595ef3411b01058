"""The common trainer's own bookkeeping."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import AMPTrainer, TrainerBase

from d2kit.checkpoint import AtomicCheckpointer
from d2kit.trainer import ResumableTrainer


def trainer(scale):
    """A trainer under AMP whose gradient scaler starts at this scale."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = ResumableTrainer.__new__(ResumableTrainer)
    TrainerBase.__init__(made)
    made.cfg = get_cfg()
    made._trainer = AMPTrainer(model, [], optimizer, grad_scaler=torch.amp.GradScaler("cpu", init_scale=scale))
    return made


def test_a_training_that_began_without_amp_goes_on_with_a_fresh_scaler():
    before, after = trainer(8.0), trainer(16.0)
    before.iter = 5
    state = before.state_dict()
    after.load_state_dict(state)
    assert after._trainer.grad_scaler.get_scale() == 8.0
    del state["_trainer"]["grad_scaler"]
    fresh = trainer(16.0)
    fresh.load_state_dict(state)
    assert fresh._trainer.grad_scaler.get_scale() == 16.0 and fresh.iter == 5
    assert "grad_scaler" not in state["_trainer"]


def test_weights_of_another_network_are_not_resumed_even_if_keys_may_change(tmp_path):
    made = trainer(8.0)
    made.allow_changed = True
    made.checkpointer = AtomicCheckpointer(torch.nn.Linear(3, 1), str(tmp_path))
    made.checkpointer.save("model_0000001")
    with pytest.raises(ValueError, match="of another network: 1 of 2 weights .* 'weight' for one"):
        made.resume_or_load(resume=True)
