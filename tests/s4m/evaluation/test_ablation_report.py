"""The ablation's table and plot, from figures written by hand."""

import cv2
import pytest

from s4m.evaluation.ablation_report import ablation_plot, ablation_table, differences


def figures(ap, quality=None):
    found = {"student/segm/AP": ap, "student/segm/AP50": 2 * ap, "student/bbox/AP": ap + 1, "seconds": 100.0}
    return found | {f"pseudo_label_quality/{key}": value for key, value in (quality or {}).items()}


@pytest.fixture
def rows():
    quality = {"before/precision": 0.8, "after/precision": 0.9, "before/recall": 0.5, "after/recall": 0.6}
    quality |= {"refined": 3.0, "rejected": 1.0, "match/over_segmented": 0.125, "ece/class_score": 0.25}
    quality |= {"ece/calibrated_confidence": 0.0625}
    return [
        {"name": "plain", "title": "plain", "against": "", "seeds": {"1": figures(10.0), "2": figures(14.0)}},
        {
            "name": "more",
            "title": "plain + more",
            "against": "plain",
            "seeds": {"1": figures(13.0, quality), "2": figures(15.0, quality)},
        },
        {
            "name": "half",
            "title": "half",
            "against": "more",
            "seeds": {"1": figures(9.0), "2": {"failed": "the log says why"}},
        },
        {"name": "none", "title": "none", "against": "more", "seeds": {"1": {"failed": "x"}, "2": {"failed": "y"}}},
    ]


def test_differences_are_taken_seed_by_seed(rows):
    assert [differences(row, rows) for row in rows] == [[], [3.0, 1.0], [-4.0], []]


def test_every_row_is_in_the_table(rows):
    lines = ablation_table(rows, {"labelled percent": 5}).splitlines()
    assert "- labelled percent: 5" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| plain | 12.0 ± 2.8 | - | - | 24.0 ± 5.7 | - | 13.0 ± 2.8 | - |")
    assert table[3].startswith("| plain + more | 14.0 ± 1.4 | +2.0 ± 1.4 | plain |")
    cells = "| 0.800 → 0.900 | 0.500 → 0.600 | - | 0.250 → 0.062 | 0.750 ± 0.000 | 0.125 ± 0.000 | 100 ± 0 |"
    assert table[3].endswith(cells)
    assert table[4].startswith("| half (1 of 2 seeds) | 9.0 | -4.0 | plain + more |")
    assert table[5].startswith("| none (0 of 2 seeds) | - | - |")
    assert lines[-3:] == ["- half, seed 2: the log says why", "- none, seed 1: x", "- none, seed 2: y"]


def test_a_teacher_that_sam_was_not_asked_about_has_no_share_of_accepted_masks():
    row = {"name": "a", "title": "a", "against": "", "seeds": {"1": figures(1.0, {"refined": 0.0, "rejected": 0.0})}}
    assert ablation_table([row], {}).splitlines()[-1].endswith("| - | - | - | - | - | - | 100 |")


def test_plot(rows, tmp_path):
    few, many = (cv2.imread(str(ablation_plot(some, tmp_path / "plot.png", "title"))) for some in (rows[:1], rows))
    assert few.std() > 0 and many.shape[0] > few.shape[0]
