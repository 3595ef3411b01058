"""ROC curves from the evaluator's file to a picture."""

from pathlib import Path

import numpy as np
import pytest

from istd.evaluation.evaluator import ISTDEvaluator
from istd.evaluation.roc import draw_roc, read_curve, save_roc


@pytest.fixture
def results(tmp_path) -> Path:
    """Folder of a run whose evaluator scored one image, of the characteristic "faint"."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 1
    evaluator = ISTDEvaluator(str(tmp_path / "run" / "test"))
    probability = np.where(mask, 0.8, 0.1)
    probability[0, 0] = 0.9
    evaluator.process([{"file_name": "a.png", "mask": mask, "characteristic": "faint"}], [{"probability": probability}])
    evaluator.evaluate()
    return tmp_path / "run" / "test" / "istd.json"


def test_a_curve_is_the_evaluator_s(results):
    curve = read_curve(results)
    assert read_curve(results, "faint") == curve
    assert (curve.fpr[0], curve.tpr[0]) == (1, 1) and (curve.fpr[-1], curve.tpr[-1]) == (0, 0)
    points = set(zip(np.round(curve.fpr, 6), np.round(curve.tpr, 6), strict=True))
    assert {(round(1 / 60, 6), 1.0), (round(1 / 60, 6), 0.0)} <= points, "one of 60 background pixels is brighter"
    assert curve.auc == pytest.approx(1 - 1 / 60, abs=0.01)


def test_a_figure_has_a_line_for_each_curve(results):
    axes = draw_roc({"one": read_curve(results), "two": read_curve(results)}).axes[0]
    assert [line.get_label().split(" (AUC")[0] for line in axes.lines] == ["one", "two"]
    assert axes.get_xscale() == "log" and min(axes.lines[0].get_xdata()) == 1e-6


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_it_is_written(results, tmp_path, suffix):
    save_roc(tmp_path / "new" / f"roc.{suffix}", {"one": read_curve(results)})
    assert (tmp_path / "new" / f"roc.{suffix}").stat().st_size > 1000


def test_what_has_no_curve_is_one_sentence(results, tmp_path):
    with pytest.raises(ValueError, match="no ROC of 'bright'; it has all, faint"):
        read_curve(results, "bright")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="other.json' is no result"):
        read_curve(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="absent.json"):
        read_curve(tmp_path / "absent.json")
