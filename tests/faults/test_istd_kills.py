"""A point-supervised training that is killed at any point and resumed is the uninterrupted one, bit for bit."""

import pytest

PACKAGE = "istd"


@pytest.mark.parametrize(
    "event",
    [
        "half clusters-*.json",
        "half *.npy #3",
        "mask #30",
        "half masks-000002.npz",
        "score #3",
        "half istd_teacher.json #2",
        "after EvalHook 3",
        "half model_0000003.pth",
        "written model_0000003.pth",
        "half model_final.pth",
        "score #8",
        "half results.json",
    ],
)
def test_a_kill_loses_nothing(survives, event):
    survives(event)


def test_three_kills_lose_nothing(survives):
    survives("mask #30", "score", "half results.json")
