"""What a report tells of S4M, from a hand-written metrics.json and from predictions beside true objects."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from d2kit.config_files import compose_config
from d2kit.report.runs import read_run
from s4m import add_s4m_config
from s4m.cli import COMMANDS, main
from s4m.engine.report import REPORT_PARTS, class_color, class_legend, rate_images
from s4m.evaluation.coco import read_truth
from s4m.evaluation.reliability import read_reliability, reliability_scalars

ROWS = [
    {"iteration": 19, "total_loss": 3.5, "loss_mask": 0.5, "loss_mask_pseudo": 0.25, "lr": 0.001},
    {"iteration": 20, "student/segm/AP": 31.25, "teacher/segm/AP": 33.5, "student/bbox/AP": 40.0},
    {"iteration": 20, "student/segm/AP-<b>": 12.5, "pseudo_label_quality/before/precision": 0.5},
    {"iteration": 20, "pseudo_label_quality/after/precision": 0.75, "pseudo_labels/match/matched": 0.5},
]


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    bins = {f"pseudo_label_quality/{key}": value for key, value in reliability_scalars(sums()).items()}
    rows = [*ROWS, {"iteration": 20} | bins]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    return folder


def sums():
    rows = torch.zeros(10, 3, dtype=torch.float64)
    rows[9] = torch.tensor([4.0, 3.85, 2.9])
    return {"class score": rows, "calibrated confidence": rows / 2}


def test_the_bins_of_reliability_pass_through_scalars():
    scalars = reliability_scalars(sums())
    assert len(scalars) == 60 and scalars["reliability/class_score/9/iou"] == pytest.approx(2.9)
    found = read_reliability({f"pseudo_label_quality/{key}": value for key, value in scalars.items()})
    assert found.keys() == sums().keys()
    assert all(torch.equal(found[name], rows) for name, rows in sums().items())
    assert read_reliability({"pseudo_label_quality/ece/class_score": 0.5}) == {}


def test_metrics_alone_tell_scores_curves_and_calibration(run_folder, tmp_path, capsys):
    assert main(["report", str(run_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "report.html")
    text = (run_folder / "report.html").read_text()
    for number in ("31.25", "33.5", "40", "12.5"):
        assert f"<td>{number}</td>" in text
    for title in ("Accuracy of masks", "Quality of pseudo-labels", "Losses", "Calibration"):
        assert f"<h2>{title}</h2>" in text
    assert "segm/AP-&lt;b&gt;" in text and "<b>" not in text
    assert "The pictures are left out: config.yaml cannot be read." in text
    assert "Go on from here" not in text


def test_several_sets_have_a_table_each(tmp_path):
    row = {"iteration": 5, "student/a/segm/AP": 1.0, "student/coco:b.json:c/segm/AP": 2.0, "student/x": 3.0}
    (tmp_path / "metrics.json").write_text(json.dumps(row))
    scores = REPORT_PARTS.scores(read_run(tmp_path))
    assert scores == {("a", "student", "segm/AP"): 1.0, ("coco:b.json:c", "student", "segm/AP"): 2.0}


def test_the_commands_that_go_on_are_commands(run_folder):
    (run_folder / "config.yaml").write_text(compose_config([], [], [add_s4m_config]).dump())
    commands = [command.split() for _, command in REPORT_PARTS.commands(read_run(run_folder))]
    assert {words[0] for words in commands} == {"s4m"}
    assert {"train", "eval", "export"} <= {words[1] for words in commands} & COMMANDS.keys()
    assert f"'{run_folder}/config.yaml'" in REPORT_PARTS.commands(read_run(run_folder))[0][1]


def test_a_comparison_needs_an_output(run_folder, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(run_folder), "elsewhere"])
    assert "a comparison needs --output" in capsys.readouterr().err


def test_no_run_is_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def truth(small_cfg):
    cfg = small_cfg("stage1", semi=False)
    return read_truth(cfg, cfg.DATASETS.TEST[0])


def result(truth, annotation, score=0.9, shift=0, **changes):
    mask = np.roll(truth.annToMask(annotation), shift, axis=1)
    rle = mask_util.encode(np.asfortranarray(mask))
    keys = {key: annotation[key] for key in ("image_id", "category_id")}
    return keys | {"score": score, "segmentation": rle} | changes


def test_images_are_rated_by_panoptic_quality(truth):
    first, second, third = sorted(truth.imgs)
    objects = {key: truth.imgToAnns[key] for key in (first, second, third)}
    perfect = [result(truth, item) for item in objects[first]]
    twice = [result(truth, item) for item in objects[second] for _ in range(2)]
    rated = rate_images(truth, [*perfect, *twice])
    assert [image for image, _, _ in rated] == [third, second, first]
    # A second prediction of the same object is a false one: n matches of 2 n predictions and n objects.
    assert [quality for _, quality, _ in rated] == pytest.approx([0, 2 / 3, 1])


def test_another_class_or_place_is_no_match(truth):
    image = sorted(truth.imgs)[0]
    objects = truth.imgToAnns[image]
    wrong = [result(truth, item, category_id=item["category_id"] % len(truth.cats) + 1) for item in objects]
    moved = [result(truth, item, shift=32) for item in objects]
    for predictions in (wrong, moved):
        assert {key: quality for key, quality, _ in rate_images(truth, predictions)}[image] == 0


def test_pictures_show_what_the_evaluation_left(small_cfg, tmp_path, truth):
    cfg = small_cfg("stage1", semi=False)
    (tmp_path / "metrics.json").write_text(json.dumps(ROWS[0]))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    inference = tmp_path / "student" / "inference"
    inference.mkdir(parents=True)
    predictions = [result(truth, item) for items in truth.imgToAnns.values() for item in items]
    for item in predictions:
        item["segmentation"]["counts"] = item["segmentation"]["counts"].decode()
    (inference / "coco_instances_results.json").write_text(json.dumps(predictions))
    (section,) = REPORT_PARTS.sections([read_run(tmp_path)])
    (_, worst), (_, best) = section.galleries
    assert len(worst) == len(best) == 3 and all(picture.source.startswith("data:image/jpeg") for picture in best)
    assert "quality 1.00" in best[0].caption
    assert {name for _, name in section.legend} == {category["name"] for category in truth.cats.values()}

    predictions[0]["segmentation"]["counts"] = "o" * 40
    (inference / "coco_instances_results.json").write_text(json.dumps(predictions))
    (section,) = REPORT_PARTS.sections([read_run(tmp_path)])
    assert not section.galleries and "The pictures are left out: " in section.text[0]


def test_colors_of_classes():
    assert class_color(-1) == "#808080" and class_color(0) == class_color(8) != class_color(1)
    assert class_legend(["a", "b"])[1] == (class_color(1), "b") and class_legend(["a"] * 9) == []
