"""What a report tells of ISTD, from a hand-written metrics.json and from the files of an evaluation."""

import json

import numpy as np
import pytest

from d2kit.report.runs import read_run
from istd.cli import COMMANDS, main
from istd.data.images import read_mask
from istd.engine.data import load_datasets
from istd.engine.report import REPORT_PARTS
from istd.evaluation.evaluator import ISTDEvaluator

ROWS = [
    {"iteration": 19, "total_loss": 1.5, "loss_mask": 0.5, "lr": 0.001, "labels/iou_true": 51.0, "outer/loss": 0.5},
    {"iteration": 20, "istd/IoU": 61.5, "istd_teacher/IoU": 62.25, "istd/IoU-<b>": 7.5, "istd_points/F1": 80.0},
]


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, ROWS)))
    return tmp_path


def test_metrics_alone_tell_scores_and_curves(run_folder, capsys):
    assert main(["report", str(run_folder)]) == 0
    text = (run_folder / "report.html").read_text()
    for number in ("61.5", "62.25", "7.5", "80"):
        assert f"<td>{number}</td>" in text
    for title in ("Accuracy by masks", "Accuracy by points", "Losses", "Evolution of pseudo-masks"):
        assert f"<h2>{title}</h2>" in text
    assert "IoU-&lt;b&gt;" in text and "<b>" not in text
    assert "The pictures are left out: " in text


def test_scores_are_those_of_the_last_validation_and_of_the_test(run_folder):
    results = {"sirst:a/b:test.txt/istd/IoU": 55.5, "sirst:a/b:test.txt/istd_teacher_points/Pd": None}
    (run_folder / "test").mkdir()
    (run_folder / "test" / "results.json").write_text(json.dumps({"results": results}))
    scores = REPORT_PARTS.scores(read_run(run_folder))
    assert scores == {
        ("validation images", "student", "IoU"): 61.5,
        ("validation images", "teacher", "IoU"): 62.25,
        ("validation images", "student", "IoU-<b>"): 7.5,
        ("validation images", "student", "F1 by points"): 80.0,
        ("test, sirst:a/b:test.txt", "student", "IoU"): 55.5,
    }


def test_the_commands_that_go_on_are_commands(run_folder):
    commands = [command.split() for _, command in REPORT_PARTS.commands(read_run(run_folder))]
    assert [words[:2] for words in commands] == [["istd", name] for name in ("train", "eval", "detect", "export")]
    assert {words[1] for words in commands} <= COMMANDS.keys()


def test_pictures_show_the_predictions_of_the_test(run_folder, istd_cfg, scenes):
    evaluator = ISTDEvaluator(str(run_folder / "test"))
    records = load_datasets([scenes.test], "DATASETS.TEST")
    for record, right in zip(records, (True, False), strict=True):
        mask = read_mask(record["mask_file"])
        probability = mask if right else np.zeros_like(mask)
        evaluator.process([record | {"mask": mask}], [{"probability": probability.astype(np.float32)}])
    evaluator.evaluate()
    (run_folder / "config.yaml").write_text(istd_cfg().dump())
    (section,) = REPORT_PARTS.sections([read_run(run_folder)])
    (_, worst), (_, best) = section.galleries
    assert "IoU 0.0 %" in worst[0].caption and "IoU 100.0 %" in best[0].caption
    assert best[0].source.startswith("data:image/jpeg;base64,")

    path = run_folder / "test" / "istd.json"
    content = json.loads(path.read_text())
    content["images"][0]["prediction"]["counts"] = "o" * 40
    path.write_text(json.dumps(content))
    (section,) = REPORT_PARTS.sections([read_run(run_folder)])
    assert not section.galleries and "The pictures are left out: " in section.text[0]
