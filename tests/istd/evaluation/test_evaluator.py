"""The Detectron2 evaluator: masks, points, teacher, characteristics, several processes."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from istd.evaluation import IRMetrics, PointMetrics
from istd.evaluation.evaluator import ISTDEvaluator


def sample(index: int, *, mask=True, characteristic=None) -> tuple[dict, dict]:
    rng = np.random.default_rng(index)
    target = torch.zeros(20, 24, dtype=torch.uint8)
    y, x = (int(v) for v in rng.integers(2, 15, 2))
    target[y : y + 3, x : x + 3] = 1
    image = {"file_name": f"{index}.png", "points": [[x + 1, y + 1]]}
    if mask:
        image["mask"] = target
    if characteristic:
        image["characteristic"] = characteristic
    student = torch.from_numpy(rng.random((20, 24), np.float32)) * 0.6
    return image, {"probability": student, "teacher_probability": (target * 0.9 + student * 0.1).float()}


def evaluate(evaluator: ISTDEvaluator, samples) -> dict:
    evaluator.reset()
    for image, output in samples:
        evaluator.process([image], [output])
    return evaluator.evaluate()


def test_student_and_teacher_by_masks():
    samples = [sample(i) for i in range(5)]
    results = evaluate(ISTDEvaluator(), samples)
    assert list(results) == ["istd", "istd_teacher"]
    metrics = IRMetrics()
    for image, output in samples:
        metrics.update(output["probability"].numpy(), image["mask"].numpy())
    wanted = metrics.compute()
    assert results["istd"] == {key: wanted[key] for key in ("IoU", "nIoU", "Pd", "Fa", "AUC")} | {"images": 5}
    assert results["istd_teacher"]["IoU"] == 100
    assert all(isinstance(value, float | int) for value in flatten_results_dict(results).values())
    print_csv_format(results)


def test_points_where_there_are_no_masks():
    samples = [sample(i, mask=False) for i in range(4)]
    results = evaluate(ISTDEvaluator(), samples)
    assert list(results) == ["istd_points", "istd_teacher_points"]
    metrics = PointMetrics()
    for image, output in samples:
        metrics.update(output["probability"].numpy(), image["points"])
    assert results["istd_points"] == metrics.compute() | {"images": 4}
    assert results["istd_teacher_points"]["F1"] == 100
    by_choice = evaluate(ISTDEvaluator(use_masks=False), [sample(i) for i in range(4)])
    assert by_choice == results


def test_characteristics_split_the_metrics():
    samples = [sample(0, characteristic="faint"), sample(1, characteristic=["faint", "salient"]), sample(2)]
    results = evaluate(ISTDEvaluator(roc_bins=0), samples)
    only = evaluate(ISTDEvaluator(roc_bins=0), samples[:2])
    assert results["istd"]["IoU-faint"] == only["istd"]["IoU"]
    assert results["istd"]["nIoU-salient"] == evaluate(ISTDEvaluator(roc_bins=0), samples[1:2])["istd"]["nIoU"]
    assert results["istd"]["IoU"] == evaluate(ISTDEvaluator(roc_bins=0), samples)["istd"]["IoU"]
    assert len(results["istd"]) == 15
    assert [results["istd"][f"images{split}"] for split in ("", "-faint", "-salient")] == [3, 2, 1]


def test_a_set_that_masks_score_in_part_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("istd"), "propagate", True)
    samples = [sample(i, mask=i < 3) for i in range(71, 76)] + [sample(i) for i in range(2)]
    for _ in range(2):
        results = evaluate(ISTDEvaluator(), samples)
        assert (results["istd"]["images"], results["istd_points"]["images"]) == (2, 5)
        assert results["istd_teacher_points"]["images"] == 5
    (warning,) = [text for text in caplog.messages if text.startswith("'istd' ")]
    assert warning == (
        "'istd' scores 2 of 7 images: the other 5, 71.png for one, have no mask and are in 'istd_points'."
    )


def test_files_hold_curves_and_images(tmp_path):
    samples = [sample(0, characteristic="faint"), sample(1, mask=False)]
    evaluate(ISTDEvaluator(str(tmp_path / "inference")), samples)
    document = json.loads((tmp_path / "inference" / "istd.json").read_text())
    roc = document["metrics"]["all"]["ROC"]
    assert len(roc["tpr"]) == len(roc["threshold"]) == 258 and roc["threshold"][0] is None
    assert set(document["metrics"]) == {"all", "faint"}
    assert [image["file_name"] for image in document["images"]] == ["0.png"]
    assert document["images"][0]["pixels"] == 480
    assert (tmp_path / "inference" / "istd_teacher_points.json").is_file()


def test_processes_are_gathered(monkeypatch):
    samples = [sample(i, characteristic="faint" if i % 2 else None) for i in range(5)]
    whole = evaluate(ISTDEvaluator(), samples)
    first, second = ISTDEvaluator(), ISTDEvaluator()
    for index, (image, output) in enumerate(samples):
        (first if index % 2 else second).process([image], [output])
    state = (second._metrics, second._images)
    monkeypatch.setattr(comm, "gather", lambda own: [own, state, ({}, {})])
    assert first.evaluate() == whole
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert first.evaluate() == {}


def test_nothing_processed():
    evaluator = ISTDEvaluator()
    assert evaluator.evaluate() == {}
    evaluator.process([], [])
    assert evaluator.evaluate() == {}


def test_images_without_targets():
    image = {"file_name": "sky.png", "mask": np.zeros((8, 8), np.uint8)}
    results = evaluate(ISTDEvaluator(empty="one"), [(image, {"probability": torch.zeros(8, 8)})])
    assert results["istd"]["nIoU"] == 100 and math.isnan(results["istd"]["Pd"]) and "istd_teacher" not in results


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({}, "neither a mask nor points"),
        ({"mask": torch.zeros(4, 5)}, r"target mask \(4, 5\)"),
        ({"points": [[9, 1]]}, r"point \(9, 1\) is outside"),
    ],
)
def test_errors_name_the_image(image, sentence):
    with pytest.raises(ValueError, match=f"Misc_1.png: .*{sentence}"):
        ISTDEvaluator().process([{"file_name": "Misc_1.png"} | image], [{"probability": torch.zeros(4, 4)}])
