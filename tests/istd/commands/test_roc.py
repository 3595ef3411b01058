"""`istd roc` draws what evaluations wrote."""

import numpy as np
import pytest
from PIL import Image

from d2kit.commands import run_command
from istd.commands import roc
from istd.evaluation.evaluator import ISTDEvaluator


@pytest.fixture
def results(tmp_path) -> str:
    """File of an evaluator that scored one image."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 1
    evaluator = ISTDEvaluator(str(tmp_path / "run" / "test"))
    evaluator.process([{"file_name": "a.png", "mask": mask}], [{"probability": np.where(mask, 0.8, 0.1)}])
    evaluator.evaluate()
    return str(tmp_path / "run" / "test" / "istd.json")


def test_a_picture_is_written(results, tmp_path, capsys):
    picture = tmp_path / "roc.png"
    assert run_command(roc, [results, "--output", str(picture)]) == 0
    assert capsys.readouterr().out.split() == [str(picture)]
    assert Image.open(picture).size == (900, 675)


def test_mistakes_are_one_sentence(results, tmp_path, capsys):
    picture = ["--output", str(tmp_path / "roc.png")]
    with pytest.raises(SystemExit) as end:
        run_command(roc, [results, results, *picture])
    assert end.value.code == 2 and "every curve needs a name of its own" in capsys.readouterr().err
    assert run_command(roc, [str(tmp_path / "absent" / "test" / "istd.json"), *picture]) == 1
    assert "absent" in capsys.readouterr().err
