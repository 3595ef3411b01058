"""Burn-in and EMA of the teacher by hand; the best value and an unfinished evaluation survive a resume."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import hooks as d2_hooks
from detectron2.utils.events import EventStorage
from torch import nn

from d2kit.checkpoint import AtomicCheckpointer
from d2kit.hooks import BestCheckpointer
from s4m.engine.hooks import EvaluationCatchUp, MeanTeacher
from s4m.modeling.teacher_student import TeacherStudent


def scalar(value):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def make_model(teacher=100.0):
    model = TeacherStudent(
        student=scalar(0.0),
        teacher=None if teacher is None else scalar(0.0),
        labeler=None,
        structure=None,
        make_segmenter=None,
        unsup_weight=1.0,
        evaluate="student",
    )
    if teacher is not None:
        nn.init.constant_(model.teacher.weight, teacher)
    return model


def teacher_after_each(burn_in, decay=0.75, start=0, teacher=100.0):
    """The teacher's weight after steps start, start + 1, ... 4, in which the student's becomes 8, 12, 16, 20, 24."""
    model, values = make_model(teacher), []
    hook = MeanTeacher(decay, burn_in)
    for iteration in range(start, 5):
        nn.init.constant_(model.student.weight, 4.0 * iteration + 8)
        hook.trainer = SimpleNamespace(model=model, iter=iteration)
        hook.after_step()
        values.append(model.teacher.weight.item())
    return values


@pytest.mark.parametrize(
    ("burn_in", "expected"),
    [
        (0, [77.0, 60.75, 49.5625, 42.171875, 37.62890625]),
        (1, [8.0, 9.0, 10.75, 13.0625, 15.796875]),  # the first step ends the burn-in
        (3, [100.0, 100.0, 16.0, 17.0, 18.75]),
        (9, [100.0] * 5),
    ],
)
def test_burn_in_then_copy_then_moving_average(burn_in, expected):
    assert teacher_after_each(burn_in) == expected


def test_resume_needs_no_state():
    assert teacher_after_each(3, start=3, teacher=16.0) == [17.0, 18.75]
    assert MeanTeacher(0.9, 3).state_dict() == {}


def test_decay_of_zero_and_one():
    assert teacher_after_each(0, decay=0.0) == [8.0, 12.0, 16.0, 20.0, 24.0]
    assert teacher_after_each(0, decay=1.0) == [100.0] * 5


def test_without_a_teacher_nothing_happens():
    hook, model = MeanTeacher(0.5, 0), make_model(teacher=None)
    hook.trainer = SimpleNamespace(model=model, iter=0)
    hook.after_step()
    assert model.teacher is None and model.student.weight == 0


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_decay_outside_its_range_names_the_key(decay):
    with pytest.raises(ValueError, match="S4M.TEACHER.EMA_DECAY"):
        MeanTeacher(decay, 0)


def evaluate(folder, start, values):
    """A training with an evaluation each second iteration; the model's weight is the value. Returns the hook."""
    model = scalar(0.0)
    hook = BestCheckpointer(2, AtomicCheckpointer(model, str(folder)), "student/segm/AP")
    with EventStorage(start) as storage:
        trainer = SimpleNamespace(storage=storage, start_iter=start, max_iter=100, iter=start)
        hook.trainer = trainer
        hook.before_train()
        for iteration, value in zip(itertools.count(start + 1, 2), values):  # noqa: B905
            trainer.iter = storage.iter = iteration
            nn.init.constant_(model.weight, value)
            storage.put_scalar("student/segm/AP", value, smoothing_hint=False)
            hook.after_step()
    return hook


def best_weight(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["model"]["weight"].item()


def test_best_model_over_a_resume(tmp_path):
    hook = evaluate(tmp_path, 0, [3.0, 7.0, 5.0])
    assert (hook.best_metric, best_weight(tmp_path)) == (7.0, 7.0)
    resumed = evaluate(tmp_path, 6, [6.0, float("nan")])
    assert (resumed.best_metric, best_weight(tmp_path)) == (7.0, 7.0)
    assert evaluate(tmp_path, 10, [9.0]).best_metric == 9.0 == best_weight(tmp_path)


def test_training_anew_forgets_the_best(tmp_path):
    evaluate(tmp_path, 0, [7.0])
    assert evaluate(tmp_path, 0, [4.0]).best_metric == 4.0 == best_weight(tmp_path)


class Killed(BaseException):
    """In place of kill -9."""


def train(folder, start, stop, killed_at=None, max_iter=10):
    """Iterations start to stop, the model's weight being those done and its AP; each second one is evaluated.

    Returns:
        what was evaluated as (iteration of the figure, AP).
    """
    model, evaluated = scalar(start), []
    trainer = SimpleNamespace(start_iter=start, iter=start, max_iter=max_iter)

    def evaluation():
        if model.weight.item() == killed_at:
            raise Killed
        evaluated.append((trainer.storage.iter, model.weight.item()))
        return {"student": {"segm": {"AP": model.weight.item()}}}

    evaluates = d2_hooks.EvalHook(2, evaluation)
    best = BestCheckpointer(2, AtomicCheckpointer(model, str(folder)), "student/segm/AP")
    hooks = [evaluates, best, EvaluationCatchUp(2, folder, [evaluates, best])]
    with EventStorage(start) as trainer.storage:
        for hook in hooks:
            hook.trainer = trainer
        try:
            for hook in hooks:
                hook.before_train()
            assert trainer.iter == trainer.storage.iter == start
            for trainer.iter in range(start, stop):
                trainer.storage.iter = trainer.iter
                nn.init.constant_(model.weight, trainer.iter + 1)
                for hook in hooks:
                    hook.after_step()
            trainer.iter = stop
            for hook in hooks:
                hook.after_train()
        except Killed:
            pass
    return evaluated


def test_an_evaluation_that_was_cut_off_is_made_up(tmp_path):
    assert train(tmp_path, 0, 6, killed_at=4) == [(1, 2.0)]
    assert best_weight(tmp_path) == 2.0
    assert train(tmp_path, 4, 4, killed_at=4) == []  # killed again, in the evaluation that was to make up
    assert train(tmp_path, 4, 5) == [(3, 4.0)]
    assert best_weight(tmp_path) == 4.0
    assert json.loads((tmp_path / "model_best.json").read_text()) == {"metric": 4.0, "iteration": 3}


def test_a_finished_evaluation_is_not_repeated(tmp_path):
    train(tmp_path, 0, 4)
    assert train(tmp_path, 4, 6) == [(5, 6.0)]
    assert train(tmp_path, 4, 5) == []  # an older checkpoint
    assert train(tmp_path, 7, 8, max_iter=12) == [(7, 8.0)]


def test_the_last_evaluation_is_detectron2s_to_repeat(tmp_path):
    assert train(tmp_path, 6, 10, killed_at=10) == [(5, 6.0), (7, 8.0)]
    assert train(tmp_path, 10, 10) == [(10, 10.0)]
    assert train(tmp_path, 10, 12, max_iter=12) == [(11, 12.0)]


def test_a_training_from_its_start_forgets_the_evaluations_of_another(tmp_path):
    train(tmp_path, 0, 10)
    train(tmp_path, 0, 6, killed_at=4)
    assert train(tmp_path, 4, 5) == [(3, 4.0)]
