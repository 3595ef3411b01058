"""Stage 2 of S4M that is killed at any point and resumed is the uninterrupted training, bit for bit."""

import pytest

PACKAGE = "s4m"


@pytest.mark.parametrize(
    "event",
    [
        "half *.embedding #5",
        "after MeanTeacher 2",
        "half model_0000001.pth",
        "whole model_0000003.pth",
        "written model_0000001.pth",
        "after KeptCheckpoints 1",
        "score #2",
        "half coco_instances_results.json #2",
        "after EvalHook 1",
        "half model_best.pth",
        "half metrics.json",
        "half model_final.pth",
        "written model_final.pth",
        "score #5",
    ],
)
def test_a_kill_loses_nothing(survives, event):
    survives(event)


def test_three_kills_lose_nothing(survives):
    survives("score #2", "start 3", "half model_final.pth")
