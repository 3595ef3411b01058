"""Stage 2 of S4M that is killed at any point and resumed is the uninterrupted training, bit for bit."""

import pytest

PACKAGE = "s4m"


@pytest.mark.parametrize(
    "event",
    [
        "half *.embedding",
        "start 2",
        "after MeanTeacher 3",
        "half model_0000001.pth",
        "whole model_0000003.pth",
        "written model_0000001.pth",
        "half last_checkpoint #2",
        "written last_checkpoint #2",
        "after KeptCheckpoints 1",
        "score #6",
        "half coco_instances_results.json #3",
        "after EvalHook 1",
        "half model_best.pth",
        "written model_best.pth",
        "after PseudoLabelQualityHook 3",
        "half metrics.json #2",
        "whole last_evaluation.json",
        "half model_final.pth",
        "written model_final.pth",
        "score #10",
        "before metrics.json #4",
    ],
)
def test_a_kill_loses_nothing(survives, event):
    survives(event)


def test_three_kills_lose_nothing(survives):
    survives("score #6", "score #2", "half model_final.pth")
