"""Faults that are put into true labels, and how many of them an audit ranks first."""

import json

import audit_faults
import numpy as np
import pytest

from d2kit.coco_masks import encode_mask
from experiments.label_faults import KINDS, found, inject
from s4m.audit.rank import rank
from s4m.data.shapes import write_shapes


@pytest.fixture(scope="module")
def true_labels(tmp_path_factory):
    path = write_shapes(tmp_path_factory.mktemp("shapes"), 60, seed=3)
    return json.loads(path.read_text())["annotations"]


def test_faults_are_injected_as_they_are_told(true_labels):
    given, faults = inject(true_labels, 40, seed=5)
    assert [fault.kind for fault in faults] == [*KINDS] * 10 and inject(true_labels, 40, seed=5)[1] == faults
    before = {label["id"]: label for label in true_labels}
    after = {label["id"]: label for label in given}
    assert len(after) == len(before) - 20  # 10 are missing, and 10 are in another one.
    changed = {number for number, label in after.items() if label != before[number]}
    assert changed == {fault.label for fault in faults if fault.kind != "missing"}
    assert inject([], 40, seed=5) == ([], [])


def test_an_unsure_network_finds_most_faults_among_the_first_rows(true_labels):
    """The network misses every tenth object, confuses some classes, and finds things that are not there."""
    rng = np.random.default_rng(0)
    predicted = [
        {**label, "score": float(rng.beta(9, 1)), "category_id": 1 + int(rng.integers(5))}
        if rng.random() < 0.05
        else {**label, "score": float(rng.beta(14, 1))}
        for label in true_labels
        if rng.random() < 0.9
    ]
    for image in range(1, 61):
        left, top = rng.integers(0, 100, 2)
        mask = np.zeros((128, 128), np.uint8)
        mask[top : top + 20, left : left + 20] = 1
        ghost = encode_mask(mask)["segmentation"]
        predicted.append({"image_id": image, "category_id": 1, "score": float(rng.beta(2, 4)), "segmentation": ghost})
    given, faults = inject(true_labels, 30, seed=4)
    assert np.mean(found(faults, rank(given, predicted)[:50], given, predicted)) >= 0.8


def test_the_tool_prints_the_share_that_is_found(tmp_path, capsys):
    path = write_shapes(tmp_path / "shapes", 20, seed=3)
    labels = json.loads(path.read_text())["annotations"]
    results = tmp_path / "found.json"
    results.write_text(json.dumps([{**label, "score": 0.9} for label in labels]))
    audit_faults.main(["--json", str(path), "--predictions", str(results), "--faults", "8", "--first", "12"])
    assert "seed 1: 8 of 8 faults among the first 12 rows" in capsys.readouterr().out
